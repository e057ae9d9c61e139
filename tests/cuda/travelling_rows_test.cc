// travelling_rows_test.cc: rows that cross between device and host in the codec of the wire: the same bits as
// rows that the host converts.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_ops.h"
#include "router/exchange_rows.h"
#include "tests/unit/experts/dispatch_frames.h"
#include "tests/unit/router/dispatcher_fixture.h"

namespace guildhall {
namespace {

constexpr RowCodecs kCodecPairs[] = {{Codec::f32, Codec::f32},
                                     {Codec::bf16, Codec::bf16},
                                     {Codec::fp8, Codec::bf16},
                                     {Codec::bf16, Codec::fp8}};

class TravellingRows : public DispatcherTest {
 protected:
  template <class T>
  View2<T> uploaded(View2<const T> x, HostMatrix<T>& host, DeviceMatrix<T>& device) {
    const View2<T> staged = host.view(x.rows, x.cols);
    std::copy_n(x.data, x.rows * x.cols, staged.data);
    return host.upload(staged, device);
  }

  // A step with the rows on the device, in tiles of a token or two, against the reference.
  void expect_a_good_step_on_the_device() {
    ExchangeRows rows(*ops_, *dispatcher_, setup_.hidden, setup_.top_k, setup_.max_tokens,
                      3 * setup_.hidden * setup_.top_k);
    for (int step = 0; step < 2; ++step) {
      choose_randomly(7, 31 + static_cast<uint64_t>(step));
      const std::vector<float> ones(x_th_.size(), 1.0f);
      const View2<float> y_th = uploaded<float>({ones.data(), num_tokens_, setup_.hidden}, host_y_, y_);
      rows.depart(0, uploaded(x(), host_x_, x_), uploaded(experts(), host_expert_, expert_),
                  uploaded(weights(), host_weight_, weight_));
      const Result<void> sent = rows.dispatch({.layer = kLayer});
      ASSERT_FALSE(sent.has_error()) << sent.error().message;
      const Result<void> combined = rows.combine(0, y_th);
      ASSERT_FALSE(combined.has_error()) << combined.error().message;
      const View2<float> y_host = host_y_.download(y_th);
      host_y_.wait("wait y");
      EXPECT_EQ(std::vector<float>(y_host.data, y_host.data + y_host.rows * y_host.cols), expected());
    }
  }

  std::unique_ptr<Ops> ops_ = make_cuda_ops(0, {}).value();
  HostMatrix<float> host_x_{*ops_}, host_weight_{*ops_}, host_y_{*ops_};
  HostMatrix<int32_t> host_expert_{*ops_};
  DeviceMatrix<float> x_{*ops_}, weight_{*ops_}, y_{*ops_};
  DeviceMatrix<int32_t> expert_{*ops_};
};

TEST_F(TravellingRows, AStepHasTheBitsOfRowsThatTheHostConverts) {
  for (const RowCodecs codecs : kCodecPairs)
    for (const Combine combine : {Combine::exact, Combine::reduced}) {
      SCOPED_TRACE(testing::Message()
                   << "codecs " << static_cast<int>(codecs.dispatch) << " "
                   << static_cast<int>(codecs.combine) << " combine " << static_cast<int>(combine));
      workers_.clear(), peers_.clear(), dispatcher_.reset();
      make({.num_workers = 3, .top_k = 4, .hidden = 130, .codecs = codecs, .combine = combine});
      expect_a_good_step_on_the_device();
    }
}

TEST_F(TravellingRows, WhereWorkersDifferTheHostConverts) {
  make({.hidden = 36,
        .codecs = {Codec::bf16, Codec::fp8},
        .codecs_of_w1 = RowCodecs{Codec::fp8, Codec::bf16}});
  EXPECT_EQ(dispatcher_->common_codecs().dispatch, Codec::f32);
  EXPECT_EQ(dispatcher_->common_codecs().combine, Codec::f32);
  expect_a_good_step_on_the_device();
}

// ---- the worker's side

class TravellingAnswers : public ::testing::Test {
 protected:
  TravellingAnswers() {
    LoadProgress progress;
    runner_.experts().set(*ExpertStore::load(tiny_checkpoint(), tiny_model(), LoadMode::checkpoint,
                                             experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}), progress,
                                             ops_->memory())
                               .value());
  }
  std::vector<std::vector<std::byte>> run(std::span<const DispatchFrame> frames) {
    std::vector<DispatchView> views;
    std::vector<std::vector<std::byte>> rows;
    for (const DispatchFrame& frame : frames) {
      const FrameShape shape = answer_shape(views.emplace_back(frame.view()).header);
      rows.emplace_back(shape.num_rows * row_bytes(shape.codec, shape.hidden));
    }
    std::vector<ExpertJob> jobs;
    for (size_t i = 0; i < views.size(); ++i) jobs.push_back({&views[i], rows[i]});
    runner_.run(jobs);
    return rows;
  }

  std::unique_ptr<Ops> ops_ = make_cuda_ops(0, {}).value();
  ExpertRunner runner_{tiny_model(), *ops_};
};

const std::vector<std::vector<uint16_t>> kExperts = {{8, 0, 3}, {3}, {0, 8}, {5, 4, 3, 0}};

TEST_F(TravellingAnswers, AreTheFp32ResultsEncoded) {
  const auto hidden = static_cast<size_t>(tiny_model().hidden);
  for (const Combine combine : {Combine::exact, Combine::reduced}) {
    const DispatchFrame plain({.layer = 2, .combine = combine}, kExperts);
    const std::vector<std::byte> fp32 = run({&plain, 1})[0];
    for (const Codec codec : {Codec::bf16, Codec::fp8}) {
      const DispatchFrame frame({.layer = 2, .combine = combine, .answer_codec = codec}, kExperts);
      const std::vector<std::byte> rows = run({&frame, 1})[0];
      std::vector<std::byte> want(rows.size());
      for (size_t r = 0; r < fp32.size() / (hidden * sizeof(float)); ++r)
        encode_row(codec, {reinterpret_cast<const float*>(fp32.data()) + r * hidden, hidden},
                   want.data() + r * row_bytes(codec, hidden));
      EXPECT_EQ(rows, want) << "codec " << static_cast<int>(codec);
    }
  }
}

// Different in codecs both ways, in combine and in length.
TEST_F(TravellingAnswers, FramesRunTogetherHaveTheBytesOfFramesRunAlone) {
  const DispatchFrame frames[] = {
      {{.layer = 2}, kExperts},
      {{.layer = 2, .combine = Combine::reduced, .answer_codec = Codec::fp8}, {{3, 0}, {}, {8}}, Codec::bf16},
      {{.layer = 2}, {}},
      {{.layer = 2, .answer_codec = Codec::bf16}, {{7, 3, 0, 8}}, Codec::fp8, tiny_model().hidden, 9}};
  const auto together = run(frames);
  for (size_t i = 0; i < std::size(frames); ++i) EXPECT_EQ(together[i], run({&frames[i], 1})[0]) << i;
}

}  // namespace
}  // namespace guildhall
