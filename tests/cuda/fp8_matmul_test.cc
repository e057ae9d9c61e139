// fp8_matmul_test.cc: linears and the experts' FFN with weights of e4m3 codes against their refs: few rows,
// and many rows both as the device may multiply them, which emulation can be told.
#include <deque>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fp8_products.h"
#include "kernels/cuda/memory.h"
#include "kernels/expert_ffn.h"
#include "kernels/linear.h"
#include "kernels/swiglu.h"
#include "tests/cuda/device_weight.h"

namespace guildhall {
namespace {

struct Capability {
  int major, minor;
};
#if defined(GUILDHALL_CUDA_EMULATED)
constexpr Capability kCapabilities[] = {{9, 0}, {8, 0}};
void become(Capability c) { emulation::set_compute_capability(c.major, c.minor); }
#else
constexpr Capability kCapabilities[] = {{0, 0}};  // as it is
void become(Capability) {}
#endif

class CudaFp8Matmul : public CudaKernels {
 protected:
  void TearDown() override { become(kCapabilities[0]); }
  void wait() const { expect_cuda(cudaStreamSynchronize(nullptr), "wait"); }

  // Whether many rows are multiplied as codes.
  bool as_codes(int64_t num_t, const WeightView& w) {
    const auto* aligned = reinterpret_cast<const std::byte*>(uintptr_t{256});
    return w.cols % 16 == 0 && w.rows % 4 == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0 &&
           blas_->takes({.dtype = DType::e4m3,
                         .num_t = (num_t + 3) / 4 * 4,
                         .num_n = w.rows,
                         .num_k = w.cols,
                         .x = aligned,
                         .x_stride = w.cols,
                         .w = w.data,
                         .y = reinterpret_cast<float*>(uintptr_t{256}),
                         .y_stride = w.rows,
                         .x_scale_gt = reinterpret_cast<const float*>(aligned),
                         .w_scale_bb = w.scale_bb});
  }

  // y = x wᵀ (+ bias) (+ y) of x and w as the products of more than `few` rows see them.
  void expect_linear(View2<const float> x_tk, const DeviceWeight& w, int64_t few,
                     const LinearOptions& options, View2<float> y_tn) {
    if (x_tk.rows <= few) return linear_ref(x_tk, w.host.view, options, y_tn);
    std::vector<float> seen;
    for (int64_t t = 0; t < x_tk.rows; ++t) seen.insert(seen.end(), x_tk.row(t), x_tk.row(t) + x_tk.cols);
    const View2<const float> seen_tk(seen.data(), x_tk.rows, x_tk.cols);
    if (as_codes(x_tk.rows, w.view)) {
      through_fp8(seen, x_tk.cols);
      return linear_ref(seen_tk, w.host.view, options, y_tn);
    }
    for (float& v : seen) v = to_float(to_bf16(v));
    std::vector<float> rounded = w.host.f32;
    for (float& v : rounded) v = to_float(to_bf16(v));
    linear_ref(seen_tk, {rounded.data(), DType::f32, w.view.rows, w.view.cols}, options, y_tn);
  }

  std::shared_ptr<CudaDevice> device_ = CudaDevice::open(0).value();
  CudaMemory memory_{device_};
  std::unique_ptr<Blas> blas_ = Blas::create(memory_, nullptr, 1 << 20).value();

 private:
  static void through_fp8(std::vector<float>& x, int64_t cols) {
    std::vector<uint8_t> codes(static_cast<size_t>(cols));
    std::vector<float> scales(static_cast<size_t>(fp8_groups(cols)));
    for (size_t at = 0; at < x.size(); at += codes.size()) {
      const std::span<float> row(x.data() + at, codes.size());
      to_fp8_ref(row, codes, scales);
      from_fp8_ref(codes, scales, row);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Seed, CudaFp8Matmul, kSeeds);

// As in matmul_test.cc: values of about 1, x as two bf16 among few rows, sums in fp32.
constexpr float kTolerance = 5e-5f;

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected, float tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], tolerance) << "i=" << i;
}

TEST_P(CudaFp8Matmul, LinearMatchesRef) {
  for (const Capability capability : kCapabilities)
    for (const auto& [n, k] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {17, 3}, {40, 272}, {33, 1100}, {132, 160}})
      for (const int64_t t : {0, 1, 3, 8, 9, 12, 33})
        for (const Layout& layout : kLayouts) {
          SCOPED_TRACE(testing::Message() << "T=" << t << " N=" << n << " K=" << k << " device "
                                          << capability.major << "." << capability.minor);
          become(capability);
          const DeviceWeight w(n, k, DType::e4m3, 1, layout.shift);
          const std::vector<float> x = random_floats(t * k, 2), bias = random_floats(n, 3);
          const bool accumulate = layout.gap > 0, biased = layout.gap != 8;
          std::vector<float> expected = random_floats(t * n, 4);
          const DeviceMatrix<float> device_x(x, t, k, layout), y(expected, t, n, layout);
          const DeviceArray<float> device_bias(bias);
          expect_linear(as_view(x, t, k), w, kFewRows,
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

// Every code but NaN, at either place of a pair and among few rows: exact where x is a power of two.
TEST_P(CudaFp8Matmul, EveryCodeIsExactAmongFewRows) {
  std::vector<uint8_t> codes;
  for (int code = 0; code < 256; ++code)
    if ((code & 0x7f) != 0x7f) codes.push_back(static_cast<uint8_t>(code));
  const auto n = static_cast<int64_t>(codes.size());
  const std::vector<float> scale(static_cast<size_t>(fp8_blocks(n) * fp8_scale_stride(2)), 0.25f);
  const DeviceArray<float> device_scale(scale);
  for (const int64_t place : {0, 1}) {
    std::vector<uint8_t> pairs(codes.size() * 2, uint8_t{0x38});
    for (size_t i = 0; i < codes.size(); ++i) pairs[2 * i + static_cast<size_t>(place)] = codes[i];
    const DeviceArray<uint8_t> device_codes(pairs);
    const std::vector<float> x{place == 0 ? 2.0f : 0.0f, place == 1 ? 2.0f : 0.0f};
    std::vector<float> expected(codes.size());
    const DeviceArray<float> device_x(x), y(expected);
    linear_ref(as_view(x, 1, 2), {pairs.data(), DType::e4m3, n, 2, scale.data()}, {},
               as_view(expected, 1, n));
    linear_cuda(*blas_, {device_x.data(), 1, 2},
                {device_codes.data(), DType::e4m3, n, 2, device_scale.data()}, {}, {y.data(), 1, n});
    wait();
    EXPECT_EQ(y.download(), expected);
  }
}

// Weights are dequantised in bands of one block of rows, the last one shorter.
TEST_P(CudaFp8Matmul, BandsOfDequantisedWeightsMakeOneProduct) {
#if defined(GUILDHALL_CUDA_EMULATED)
  become({8, 0});
#endif
  constexpr int64_t kT = 9, kN = 300, kK = 136;  // a K that no library takes as codes
  const DeviceWeight w(kN, kK, DType::e4m3, 1);
  const std::vector<float> x = random_floats(kT * kK, 2);
  std::vector<float> expected = random_floats(kT * kN, 3);
  const DeviceArray<float> device_x(x), y(expected);
  expect_linear(as_view(x, kT, kK), w, 0, {.accumulate = true}, as_view(expected, kT, kN));
  std::byte* const memory = blas_->scratch(fp8_products_bytes(kT, kK, kN));
  Fp8Products(*blas_, {device_x.data(), kT, kK}, w.view, memory, 1)
      .multiply(w.view, true, {y.data(), kT, kN});
  wait();
  expect_near(y.download(), expected, kTolerance);
}

TEST_P(CudaFp8Matmul, ExpertFfnMatchesRef) {
  for (const Capability capability : kCapabilities)
    for (const auto& [h, f] : std::vector<std::pair<int64_t, int64_t>>{{3, 17}, {144, 32}, {48, 136}})
      for (const std::vector<int32_t>& offset_e : std::vector<std::vector<int32_t>>{
               {0, 0, 0, 0}, {0, 1, 1, 1}, {0, 32, 33, 36}, {0, 3, 3, 36}, {0, 35, 40, 76}}) {
        const int64_t rows = offset_e.back();
        SCOPED_TRACE(testing::Message() << "H=" << h << " F=" << f << " R=" << rows << " device "
                                        << capability.major << "." << capability.minor);
        become(capability);
        std::deque<DeviceWeight> weights;  // they do not move
        std::vector<ExpertWeightView> experts;
        const std::vector<float> x = random_floats(rows * h, 20);
        std::vector<float> hidden(static_cast<size_t>(rows * f)), expected(static_cast<size_t>(rows * h));
        const DeviceMatrix<float> device_x(x, rows, h), device_hidden(hidden, rows, f), y(expected, rows, h);
        bool any_many = false;
        for (uint32_t e = 0; e < 3; ++e) {
          const DeviceWeight& gate = weights.emplace_back(f, h, DType::e4m3, 3 * e + 1);
          const DeviceWeight& up = weights.emplace_back(f, h, DType::e4m3, 3 * e + 2);
          const DeviceWeight& down = weights.emplace_back(h, f, DType::e4m3, 3 * e + 3);
          experts.push_back({gate.view, up.view, down.view});
          const int64_t begin = offset_e[e], num_r = offset_e[e + 1] - begin;
          any_many = any_many || num_r > kFewExpertRows;
          if (num_r == 0) experts.back() = {};  // without rows it is not read: null would crash
          const View2<const float> x_rh = as_view(x, rows, h).sub_rows(begin, num_r);
          std::vector<float> gate_up(static_cast<size_t>(num_r * 2 * f));
          const View2<float> gate_up_r2f(gate_up.data(), num_r, 2 * f);
          expect_linear(x_rh, gate, kFewExpertRows, {}, gate_up_r2f.sub_cols(0, f));
          expect_linear(x_rh, up, kFewExpertRows, {}, gate_up_r2f.sub_cols(f, f));
          const View2<float> hidden_rf = as_view(hidden, rows, f).sub_rows(begin, num_r);
          swiglu_ref(gate_up_r2f, hidden_rf);
          expect_linear(hidden_rf, down, kFewExpertRows, {},
                        as_view(expected, rows, h).sub_rows(begin, num_r));
        }
        expert_ffn_cuda(*blas_, device_x, offset_e, experts, device_hidden, y);
        wait();
        // Of many rows hidden (below 8) is rounded once more, and at a tie to the other side than here: by
        // 1/8 of a code's value at most.
        expect_near(y.download(), expected, any_many ? 0.1f : kTolerance);
      }
}

// More experts than one launch takes.
TEST_P(CudaFp8Matmul, ManyExpertsWithOneRowEach) {
  constexpr int64_t kExperts = 130, kH = 16, kF = 16;
  const DeviceWeight gate(kF, kH, DType::e4m3, 1), up(kF, kH, DType::e4m3, 2), down(kH, kF, DType::e4m3, 3);
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

}  // namespace
}  // namespace guildhall
