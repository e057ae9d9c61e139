// sampling_test.cc: what is done to logits on the device: edits with ref's bits, draws of ref's tokens,
// scores.
#include "kernels/sampling.h"
#include "kernels/logit_edits.h"
#include "kernels/token_scores.h"

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
        << d.rule.top_k << " top_p " << d.rule.top_p << " min_p " << d.rule.min_p << " u " << d.u;
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
                        .top_k = one_of(std::vector<int32_t>{0, 0, 1, 2, 40, 100000}),
                        .min_p = one_of(std::vector<float>{0, 0, 0.05f, 0.5f, 1})},
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

using LogitEdits = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, LogitEdits, kSeeds);

TEST_P(LogitEdits, HaveRefsBits) {
  std::mt19937 generator(static_cast<uint32_t>(GetParam()) + 7);
  for (const int64_t vocabulary : {1, 33, 700}) {
    constexpr int64_t kRows = 3, kMasks = 2;
    std::vector<float> logits = random_floats(kRows * vocabulary, generator(), 5);
    std::vector<LogitEdit> edits;
    std::vector<EditedRow> rows;
    const int64_t words = mask_words(vocabulary);
    std::vector<uint32_t> allowed(static_cast<size_t>(kMasks * words));
    for (uint32_t& word : allowed) word = generator();
    for (const int64_t row : {2, 0}) {
      const auto first = static_cast<int64_t>(edits.size());
      for (int64_t id = 0; id < vocabulary; ++id)
        if (generator() % 3 == 0)
          edits.push_back(
              {static_cast<int32_t>(id), generator() % 5 == 0 ? -kInf : random_floats(1, generator())[0],
               0.5f + static_cast<float>(generator() % 100) / 50, random_floats(1, generator())[0]});
      rows.push_back({row, first, static_cast<int64_t>(edits.size()) - first, row == 0 ? -1 : 1});
    }
    const DeviceMatrix<float> device_logits(logits, kRows, vocabulary, kLayouts[generator() % 3]);
    const DeviceArray<LogitEdit> device_edits(edits);
    const DeviceArray<EditedRow> device_rows(rows);
    const DeviceMatrix<uint32_t> device_allowed(allowed, kMasks, words);
    edit_logits_cuda(nullptr, device_rows, device_edits, device_allowed, device_logits);
    edit_logits_ref(rows, edits, as_view<uint32_t>(std::as_const(allowed), kMasks, words),
                    as_view(logits, kRows, vocabulary));
    EXPECT_TRUE(same_bytes(device_logits.download(), logits)) << vocabulary;
  }
}

using Scores = CudaKernels;
INSTANTIATE_TEST_SUITE_P(Seeds, Scores, kSeeds);

void expect_refs_scores(const std::vector<float>& logits, int64_t rows, int64_t vocabulary,
                        const std::vector<ScoredRow>& wanted, const Layout& layout = {}) {
  const DeviceMatrix<float> device_logits(logits, rows, vocabulary, layout);
  const DeviceArray<ScoredRow> device_wanted(wanted);
  const DeviceArray<TokenScores> device_scores(std::vector<TokenScores>(wanted.size()));
  token_scores_cuda(nullptr, device_logits, device_wanted, device_scores);
  const std::vector<TokenScores> got = device_scores.download();
  std::vector<TokenScores> want(wanted.size());
  token_scores_ref(as_view(logits, rows, vocabulary), wanted, want);
  const auto expect_near = [](float a, float b) {
    if (std::isfinite(b))
      EXPECT_NEAR(a, b, 1e-6 * (1 + std::abs(b)));
    else
      EXPECT_EQ(a, b);
  };
  for (size_t i = 0; i < wanted.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "V " << vocabulary << " row " << wanted[i].row);
    expect_near(got[i].logprob, want[i].logprob);
    EXPECT_EQ(got[i].rank, want[i].rank);
    for (int k = 0; k < std::min<int64_t>(wanted[i].num_top, vocabulary); ++k) {
      EXPECT_EQ(got[i].top_id[k], want[i].top_id[k]) << k;
      expect_near(got[i].top_logprob[k], want[i].top_logprob[k]);
    }
  }
}

TEST_P(Scores, AreRefs) {
  std::mt19937 generator(static_cast<uint32_t>(GetParam()) + 61);
  for (const int64_t vocabulary : {1, 2, 33, 1000, 2049}) {
    std::vector<float> logits = random_floats(2 * vocabulary, generator(), 8);
    const Layout layout = kLayouts[generator() % 3];
    const auto last = static_cast<int32_t>(vocabulary - 1);
    expect_refs_scores(logits, 2, vocabulary, {{0, 0, kMaxTopScores}, {1, last, 3}, {1, last / 2, 0}},
                       layout);
    for (float& x : logits) x = std::round(x / 8);  // ties, also within a thread's share
    expect_refs_scores(logits, 2, vocabulary, {{0, last, kMaxTopScores}}, layout);
  }
}

TEST_P(Scores, OfInfinities) { expect_refs_scores({-kInf, 3, -kInf, 3}, 1, 4, {{0, 1, 4}, {0, 0, 2}}); }

TEST_P(Scores, TheBestMayAllBeOneThreads) {
  std::vector<float> logits(3 * 1024, -1);
  logits[5] = 7, logits[5 + 1024] = 9, logits[5 + 2048] = 8;
  expect_refs_scores(logits, 1, 3 * 1024, {{0, 5, 6}});
}

TEST_P(Sampling, NothingListedLaunchesNothing) {
  sample_cuda(nullptr, {}, {}, {});
  edit_logits_cuda(nullptr, {}, {}, {}, {nullptr, 0, 5});
  token_scores_cuda(nullptr, {nullptr, 0, 5}, {}, {});
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace guildhall
