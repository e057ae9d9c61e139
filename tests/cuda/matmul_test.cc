// matmul_test.cc: linears, linears per head and the experts' FFN against their refs, around the number of
// rows where the library takes over; and the row rule of few rows.
#include <deque>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/store_pointers.h"
#include "kernels/expert_ffn.h"
#include "kernels/linear.h"
#include "tests/cuda/device_weight.h"

namespace guildhall {
namespace {

class CudaMatmul : public CudaKernels {
 protected:
  static constexpr int64_t kScratchBytes = 1 << 20;  // more than any case takes

  void wait() const { expect_cuda(cudaStreamSynchronize(nullptr), "wait"); }

  std::shared_ptr<CudaDevice> device_ = CudaDevice::open(0).value();
  CudaMemory memory_{device_};
  // On the stream of the uploads, which others would not wait for.
  std::unique_ptr<Blas> blas_ = Blas::create(memory_, nullptr, kScratchBytes).value();
};
INSTANTIATE_TEST_SUITE_P(Seed, CudaMatmul, kSeeds);

// Inputs as the device's products see them, so that roundings of x do not count: many rows go in as bf16, few
// as sums of two.
std::vector<float> inputs(int64_t rows, int64_t cols, DType dtype, int64_t few, uint32_t seed) {
  std::vector<float> x = random_floats(rows * cols, seed);
  if (dtype == DType::bf16 && rows > few)
    for (float& v : x) v = to_float(to_bf16(v));
  return x;
}

// Values are about 1 (weights are scaled so). x keeps 16 bits among few rows, of some hundred products whose
// errors add up at random; the rest is fp32.
constexpr float kTolerance = 5e-5f;

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected, float tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], tolerance) << "i=" << i;
}

TEST_P(CudaMatmul, LinearMatchesRef) {
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const auto& [n, k] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {17, 3}, {40, 264}, {33, 1100}})
      for (const int64_t t : {0, 1, 3, 8, 9, 33})
        for (const Layout& layout : kLayouts) {
          SCOPED_TRACE(testing::Message()
                       << "T=" << t << " N=" << n << " K=" << k << " " << to_string(dtype));
          const DeviceWeight w(n, k, dtype, 1, layout.shift * static_cast<size_t>(dtype_bytes(dtype)));
          const std::vector<float> x = inputs(t, k, dtype, kFewRows, 2), bias = random_floats(n, 3);
          const bool accumulate = layout.gap > 0, biased = layout.gap != 8;
          std::vector<float> expected = random_floats(t * n, 4);
          const DeviceMatrix<float> device_x(x, t, k, layout), y(expected, t, n, layout);
          const DeviceArray<float> device_bias(bias);
          linear_ref(as_view(x, t, k), w.host.view,
                     {.bias_n = biased ? bias : std::span<const float>{}, .accumulate = accumulate},
                     as_view(expected, t, n));
          linear_cuda(
              *blas_, device_x, w.view,
              {.bias_n = biased ? device_bias.span() : std::span<const float>{}, .accumulate = accumulate},
              y);
          wait();
          expect_near(y.download(), expected, kTolerance);
        }
}

TEST_P(CudaMatmul, LinearHeadsMatchesRef) {
  constexpr int64_t kHeads = 3;
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{{5, 7}, {24, 40}})
      for (const int64_t t : {1, 8, 9}) {
        SCOPED_TRACE(testing::Message() << "T=" << t << " N=" << n << " K=" << k << " " << to_string(dtype));
        const DeviceWeight w(kHeads * n, k, dtype, 1);
        // Heads of x are the first k of k + 8 columns, as MLA's queries are.
        const int64_t width = k + 8;
        const std::vector<float> x = inputs(t, kHeads * width, dtype, kFewRows, 2);
        std::vector<float> expected(static_cast<size_t>(t * kHeads * n));
        const DeviceArray<float> device_x(x), y(expected);
        linear_heads_ref(View3<const float>(x.data(), t, kHeads, width).sub2(0, k), w.host.view,
                         {expected.data(), t, kHeads, n});
        linear_heads_cuda(*blas_, View3<const float>(device_x.data(), t, kHeads, width).sub2(0, k), w.view,
                          {y.data(), t, kHeads, n});
        wait();
        expect_near(y.download(), expected, kTolerance);
      }
}

TEST_P(CudaMatmul, ARowsBitsAreTheSameAmongFew) {
  constexpr int64_t kN = 37, kK = 600;
  const std::vector<float> x = random_floats(kFewRows * kK, 2);
  for (const DType dtype : {DType::bf16, DType::e4m3}) {
    SCOPED_TRACE(to_string(dtype));
    const DeviceWeight w(kN, kK, dtype, 1);
    const DeviceArray<float> device_x(x), all(std::vector<float>(kFewRows * kN)),
        one(std::vector<float>(kN, 0.0f));
    linear_cuda(*blas_, {device_x.data(), kFewRows, kK}, w.view, {}, {all.data(), kFewRows, kN});
    wait();
    const std::vector<float> together = all.download();
    for (int64_t t = 0; t < kFewRows; ++t) {
      linear_cuda(*blas_, {device_x.data() + t * kK, 1, kK}, w.view, {}, {one.data(), 1, kN});
      wait();
      EXPECT_EQ(one.download(),
                std::vector<float>(together.begin() + t * kN, together.begin() + (t + 1) * kN));
    }
  }
}

TEST_P(CudaMatmul, ExpertFfnMatchesRef) {
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const auto& [h, f] : std::vector<std::pair<int64_t, int64_t>>{{3, 17}, {136, 24}, {40, 136}})
      for (const std::vector<int32_t>& offset_e : std::vector<std::vector<int32_t>>{
               {0, 0, 0, 0}, {0, 1, 1, 1}, {0, 0, 8, 11}, {0, 9, 9, 10}, {0, 32, 33, 36}, {0, 3, 3, 36}}) {
        const int64_t rows = offset_e.back();
        SCOPED_TRACE(testing::Message()
                     << "H=" << h << " F=" << f << " R=" << rows << " " << to_string(dtype));
        std::deque<DeviceWeight> weights;  // they do not move
        std::vector<ExpertWeightView> host, device;
        for (uint32_t e = 0; e < 3; ++e) {
          const DeviceWeight& gate = weights.emplace_back(f, h, dtype, 3 * e + 1);
          const DeviceWeight& up = weights.emplace_back(f, h, dtype, 3 * e + 2);
          const DeviceWeight& down = weights.emplace_back(h, f, dtype, 3 * e + 3);
          host.push_back({gate.host.view, up.host.view, down.host.view});
          device.push_back({gate.view, up.view, down.view});
          // Without rows it is not read: null would crash.
          if (offset_e[e] == offset_e[e + 1]) device.back() = {};
        }
        int32_t most = 0;
        for (size_t e = 0; e < 3; ++e) most = std::max(most, offset_e[e + 1] - offset_e[e]);
        const bool few = dtype == DType::f32 || most <= kFewExpertRows;
        const std::vector<float> x = inputs(rows, h, dtype, few ? rows : 0, 20);
        std::vector<float> hidden(static_cast<size_t>(rows * f)), expected(static_cast<size_t>(rows * h));
        const DeviceMatrix<float> device_x(x, rows, h), device_hidden(hidden, rows, f), y(expected, rows, h);
        expert_ffn_ref(as_view(x, rows, h), offset_e, host, as_view(hidden, rows, f),
                       as_view(expected, rows, h));
        expert_ffn_cuda(*blas_, device_x, offset_e, device, device_hidden, y);
        wait();
        // The library's down takes hidden (below 8) as bf16: 2^-9 of it, over F products at random.
        expect_near(y.download(), expected, few ? kTolerance : 0.02f);
      }
}

// More experts than one launch takes.
TEST_P(CudaMatmul, ManyExpertsWithOneRowEach) {
  constexpr int64_t kExperts = 200, kH = 8, kF = 8;
  const DeviceWeight gate(kF, kH, DType::bf16, 1), up(kF, kH, DType::bf16, 2), down(kH, kF, DType::bf16, 3);
  const std::vector<ExpertWeightView> host(kExperts, {gate.host.view, up.host.view, down.host.view}),
      device(kExperts, {gate.view, up.view, down.view});
  std::vector<int32_t> offset_e;
  for (int32_t e = 0; e <= kExperts; ++e) offset_e.push_back(e);
  const std::vector<float> x = random_floats(kExperts * kH, 4);
  std::vector<float> hidden(kExperts * kF), expected(x.size());
  const DeviceMatrix<float> device_x(x, kExperts, kH), device_hidden(hidden, kExperts, kF),
      y(expected, kExperts, kH);
  expert_ffn_ref(as_view(x, kExperts, kH), offset_e, host, as_view(hidden, kExperts, kF),
                 as_view(expected, kExperts, kH));
  expert_ffn_cuda(*blas_, device_x, offset_e, device, device_hidden, y);
  wait();
  expect_near(y.download(), expected, kTolerance);
}

TEST_P(CudaMatmul, PointersReachTheDevice) {
  std::vector<const void*> pointers(600);
  for (size_t i = 0; i < pointers.size(); ++i) pointers[i] = reinterpret_cast<const void*>(1000 + i);
  const std::vector<const void*> expected = pointers;
  const DeviceArray<const void*> there(std::vector<const void*>(pointers.size(), nullptr));
  store_pointers_cuda(nullptr, pointers, there.data());
  std::fill(pointers.begin(), pointers.end(), nullptr);
  wait();
  EXPECT_EQ(there.download(), expected);
}

}  // namespace
}  // namespace guildhall
