// sampling_test.cc: sampling on the device draws sample_ref's tokens, and its log-sums are ref's.
#include "kernels/sampling.h"

#include <limits>

#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {
namespace {

using Sampling = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, Sampling, kSeeds);

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

void expect_refs_tokens(const std::vector<float>& logits, int64_t rows, int64_t vocabulary,
                        const std::vector<SampleDraw>& draws, const Layout& layout = {}) {
  const DeviceMatrix<float> device_logits(logits, rows, vocabulary, layout);
  const DeviceArray<SampleDraw> device_draws(draws);
  const DeviceArray<int32_t> tokens(std::vector<int32_t>(draws.size(), -7));
  sample_cuda(nullptr, device_logits, device_draws, tokens);
  const std::vector<int32_t> got = tokens.download();
  for (size_t i = 0; i < draws.size(); ++i) {
    const SampleDraw& d = draws[i];
    EXPECT_EQ(got[i], sample_ref(std::span(logits).subspan(d.row * vocabulary, vocabulary), d.rule, d.u))
        << "V " << vocabulary << " row " << d.row << " temperature " << d.rule.temperature << " top_k "
        << d.rule.top_k << " top_p " << d.rule.top_p << " u " << d.u;
  }
}

TEST_P(Sampling, DrawsRefsTokensUnderEveryRule) {
  std::mt19937 generator(static_cast<uint32_t>(GetParam()) + 1);
  std::uniform_real_distribution<double> uniform(0, 1);
  const auto one_of = [&](auto values) { return values[generator() % values.size()]; };
  for (int64_t vocabulary : {1, 2, 17, 100, 1000, 3001}) {
    constexpr int64_t kRows = 2;
    std::vector<float> logits;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<float> some =
          random_floats(vocabulary, generator(), one_of(std::vector<float>{0.01f, 1, 5, 100}));
      const float step = one_of(std::vector<float>{0, 0.25f, 1, 1000});  // a coarse grid makes ties
      for (float& x : some)
        if (step > 0) x = std::round(x / step) * step;
      logits.insert(logits.end(), some.begin(), some.end());
    }
    std::vector<SampleDraw> draws;
    for (int i = 0; i < 4; ++i)
      draws.push_back({static_cast<int64_t>(generator() % kRows),
                       {.temperature = one_of(std::vector<float>{0, 0.2f, 0.7f, 1, 1, 2, 50}),
                        .top_p = one_of(std::vector<float>{1, 1, 0.9f, 0.5f, 0.01f}),
                        .top_k = one_of(std::vector<int32_t>{0, 0, 1, 2, 40, 100000})},
                       one_of(std::vector<double>{0, uniform(generator), uniform(generator), 1 - 0x1p-53})});
    expect_refs_tokens(logits, kRows, vocabulary, draws, kLayouts[generator() % 3]);
  }
}

TEST_P(Sampling, GreedyTakesTheLowestOfTiedIds) {
  std::vector<float> logits(2500, 1);
  logits[777] = logits[1033] = logits[2400] = 5;
  expect_refs_tokens(logits, 1, 2500, {{0, {.temperature = 0}, 0.9}, {0, {.top_k = 1}, 0.9}});
  expect_refs_tokens({-1, -0.0f, 0, -1}, 1, 4, {{0, {.temperature = 0}, 0.5}});
}

TEST_P(Sampling, TiesAreDrawnInTheOrderOfTheirIds) {
  const std::vector<float> logits(1500, 0.5f);
  std::vector<SampleDraw> draws;
  for (double u : {0.0, 0.001, 0.3333, 0.5, 0.9999}) {
    draws.push_back({0, {}, u});
    draws.push_back({0, {.top_p = 0.4f, .top_k = 1001}, u});
  }
  expect_refs_tokens(logits, 1, 1500, draws);
}

TEST_P(Sampling, InfinitiesAndNans) {
  for (const std::vector<float>& logits : {std::vector<float>{-kInf, 1, kNan, -kInf, 1},
                                           {1, kInf, 2, kInf, 3},
                                           {-kInf, -kInf, -kInf, -kInf, -kInf},
                                           {kNan, kNan, kNan, kNan, kNan},
                                           {kNan, -kInf, kNan, 0, -200}}) {
    std::vector<SampleDraw> draws;
    for (const SamplingRule& rule : {SamplingRule{},
                                     {.temperature = 0},
                                     {.top_k = 2},
                                     {.top_p = 0.5f},
                                     {.temperature = 1e-40f},
                                     {.top_k = 4}})
      for (double u : {0.0, 0.6}) draws.push_back({0, rule, u});
    expect_refs_tokens(logits, 1, 5, draws);
  }
}

TEST_P(Sampling, LogSumsMatchRef) {
  for (int64_t vocabulary : {1, 33, 1000, 2049}) {
    const std::vector<float> logits = random_floats(2 * vocabulary, 61, 8);
    const DeviceMatrix<float> device_logits(logits, 2, vocabulary, {5, 1});
    const DeviceArray<float> sums(std::vector<float>(2, -7));
    log_sum_exp_cuda(nullptr, device_logits, sums);
    const std::vector<float> got = sums.download();
    for (int64_t t = 0; t < 2; ++t) {
      const float want = log_sum_exp_ref(std::span(logits).subspan(t * vocabulary, vocabulary));
      EXPECT_NEAR(got[t], want, 1e-6 * (1 + std::abs(want))) << vocabulary;
    }
  }
  const DeviceMatrix<float> never(std::vector<float>(3, -kInf), 1, 3);
  const DeviceArray<float> sum(std::vector<float>(1));
  log_sum_exp_cuda(nullptr, never, sum);
  EXPECT_EQ(sum.download()[0], -kInf);
}

TEST_P(Sampling, NoDrawsLaunchNothing) {
  sample_cuda(nullptr, {}, {}, {});
  log_sum_exp_cuda(nullptr, {nullptr, 0, 5}, {});
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace guildhall
