#include "experts/expert_runner.h"

#include "kernels/cpu_ops.h"
#include "tests/unit/experts/dispatch_frames.h"

namespace guildhall {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

class ExpertRunnerTest : public ::testing::Test {
 protected:
  std::vector<std::byte> run(const DispatchFrame& frame) {
    const DispatchView d = frame.view();
    EXPECT_TRUE(runner_.check(d));
    std::vector<std::byte> rows = answer_buffer(d);
    const ExpertJob job{&d, rows};
    runner_.run({&job, 1});
    return rows;
  }
  static std::vector<std::byte> answer_buffer(const DispatchView& d) {
    const FrameShape shape = answer_shape(d.header);
    return std::vector<std::byte>(shape.num_rows * row_bytes(shape.codec, shape.hidden));
  }
  void expect_refused(const DispatchFrame& frame, Code code, const std::string& what) {
    const Result<void> checked = runner_.check(frame.view());
    ASSERT_TRUE(checked.has_error());
    EXPECT_EQ(checked.error().code, code);
    EXPECT_THAT(checked.error().message, HasSubstr(what));
  }

  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 2});
  ExpertRunner runner_{tiny_model(), *ops_};
};

TEST_F(ExpertRunnerTest, ReturnsOneRowPerPairInPairOrder) {
  runner_.experts().set(*all_experts());
  for (const Codec codec : {Codec::f32, Codec::bf16, Codec::fp8})
    for (const Codec answer : {Codec::f32, Codec::bf16, Codec::fp8})
      for (const uint16_t layer : {0, 2}) {
        const DispatchFrame frame({.layer = layer, .answer_codec = answer},
                                  {{8, 0, 3}, {3}, {0, 8}, {5, 4, 3, 0}}, codec);
        expect_rows(run(frame), answer, expected_rows(frame.view(), *all_experts()));
      }
}

TEST_F(ExpertRunnerTest, AReducedAnswerIsOneWeightedRowPerDispatchedRow) {
  runner_.experts().set(*all_experts());
  for (const Codec answer : {Codec::f32, Codec::bf16, Codec::fp8}) {
    const DispatchFrame frame({.layer = 2, .combine = Combine::reduced, .answer_codec = answer},
                              {{8, 0, 3}, {3}, {}, {5, 4, 3, 0}});
    const std::vector<std::byte> rows = run(frame);
    expect_rows(rows, answer, expected_rows(frame.view(), *all_experts()));
    const size_t bytes = rows.size() / 4;
    std::vector<float> without_pairs(static_cast<size_t>(tiny_model().hidden), 1.0f);
    decode_row(answer, rows.data() + 2 * bytes, without_pairs);
    EXPECT_THAT(without_pairs, Each(0.0f));
  }
}

// The sum is that of the exact answer's rows, in gate order, to the bit.
TEST_F(ExpertRunnerTest, AReducedAnswerHasTheBitsOfTheExactRowsSummedInGateOrder) {
  runner_.experts().set(*all_experts());
  const std::vector<std::vector<uint16_t>> experts(30, {1, 7, 2, 5});
  const DispatchFrame exact({.layer = 2}, experts),
      reduced({.layer = 2, .combine = Combine::reduced}, experts);
  const std::vector<std::byte> pairs = run(exact), sums = run(reduced);
  const auto* rows_ph = reinterpret_cast<const float*>(pairs.data());
  const auto* sums_rh = reinterpret_cast<const float*>(sums.data());
  const auto hidden = static_cast<size_t>(tiny_model().hidden);
  for (size_t r = 0; r < experts.size(); ++r)
    for (size_t i = 0; i < hidden; ++i) {
      float sum = 0;
      for (size_t k = 0; k < 4; ++k)
        sum += std::ldexp(0.5f, -static_cast<int>(k)) * rows_ph[(r * 4 + k) * hidden + i];
      ASSERT_EQ(sums_rh[r * hidden + i], sum) << r << " " << i;
    }
}

TEST_F(ExpertRunnerTest, FramesRunTogetherHaveTheBytesOfFramesRunAlone) {
  runner_.experts().set(*all_experts());
  const DispatchFrame frames[] = {
      {{.layer = 2}, {{8, 0, 3}, {3}, {0, 8}}},
      {{.layer = 2, .combine = Combine::reduced, .answer_codec = Codec::fp8}, {{3, 0}, {}, {8}}, Codec::bf16},
      {{.layer = 2}, {}},
      {{.layer = 2, .answer_codec = Codec::bf16}, {{7, 3, 0, 8}}, Codec::fp8, tiny_model().hidden, 9}};
  std::vector<DispatchView> views;
  std::vector<std::vector<std::byte>> rows;
  for (const DispatchFrame& frame : frames) rows.push_back(answer_buffer(views.emplace_back(frame.view())));
  std::vector<ExpertJob> jobs;
  for (size_t i = 0; i < views.size(); ++i) jobs.push_back({&views[i], rows[i]});
  runner_.run(jobs);
  for (size_t i = 0; i < views.size(); ++i) EXPECT_EQ(rows[i], run(frames[i])) << "frame " << i;
}

TEST_F(ExpertRunnerTest, ARowsBitsDoNotDependOnTheOthers) {
  runner_.experts().set(*all_experts());
  const std::vector<std::vector<uint16_t>> experts(50, {1, 7, 2});
  const DispatchFrame together({.layer = 2}, experts);
  const std::vector<std::byte> rows = run(together);
  const DispatchFrame alone({.layer = 2}, {{1, 7, 2}});  // the same seed: the same first row
  const std::vector<std::byte> row = run(alone);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), rows.begin()));
}

TEST_F(ExpertRunnerTest, ADispatchOfNoRowsGivesNone) {
  runner_.experts().set(*all_experts());
  EXPECT_TRUE(run(DispatchFrame({.layer = 2}, {})).empty());
}

TEST_F(ExpertRunnerTest, RefusesEverythingBeforeItHoldsExperts) {
  expect_refused(DispatchFrame({.layer = 0}, {{1}}), Code::not_found, "layer 0 expert 1 is not held here");
}

TEST_F(ExpertRunnerTest, RefusesWhatItDoesNotHold) {
  runner_.experts().set(*load_experts({2, 5}));
  expect_refused(DispatchFrame({.layer = 1}, {{2}}), Code::not_found, "layer 1 has no experts here");
  expect_refused(DispatchFrame({.layer = 3}, {{2}}), Code::not_found, "layer 3 has no experts here");
  expect_refused(DispatchFrame({.placement_version = 6, .layer = 2}, {{2, 5}, {5, 3}}), Code::not_found,
                 "layer 2 expert 3 is not held here (placement version 6)");
  expect_refused(DispatchFrame({.layer = 2}, {{4000}}), Code::not_found, "expert 4000 is not held here");
  expect_refused(DispatchFrame({.layer = 2}, {{2}}, Codec::f32, 45), Code::invalid_argument,
                 "rows of 45 elements; the model's hidden size is 44");
  EXPECT_TRUE(runner_.check(DispatchFrame({.layer = 2}, {{2, 5}, {5}}).view()));
}

TEST_F(ExpertRunnerTest, ANewStoreReplacesTheOld) {
  runner_.experts().set(*load_experts({2}));
  runner_.experts().set(*load_experts({3}));
  expect_refused(DispatchFrame({.layer = 0}, {{2}}), Code::not_found, "expert 2 is not held");
  const DispatchFrame frame({.layer = 0}, {{3}});
  expect_rows(run(frame), Codec::f32, expected_rows(frame.view(), *all_experts()));
}

}  // namespace
}  // namespace guildhall
