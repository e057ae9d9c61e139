#include "experts/expert_runner.h"

#include "tests/unit/experts/dispatch_frames.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

class ExpertRunnerTest : public ::testing::Test {
 protected:
  std::vector<std::byte> run(const DispatchFrame& frame) {
    const DispatchView d = frame.view();
    EXPECT_TRUE(runner_.check(d));
    std::vector<std::byte> rows(d.pairs.size() * d.row_bytes);
    runner_.run(d, rows);
    return rows;
  }
  void expect_refused(const DispatchFrame& frame, Code code, const std::string& what) {
    const Result<void> checked = runner_.check(frame.view());
    ASSERT_TRUE(checked.has_error());
    EXPECT_EQ(checked.error().code, code);
    EXPECT_THAT(checked.error().message, HasSubstr(what));
  }

  Team team_{TeamOptions{.num_threads = 2}};
  ExpertRunner runner_{tiny_model(), team_};
};

TEST_F(ExpertRunnerTest, ReturnsOneRowPerPairInPairOrder) {
  runner_.set_store(all_experts());
  for (const Codec codec : {Codec::f32, Codec::bf16})
    for (const uint16_t layer : {0, 2}) {
      const DispatchFrame frame({.layer = layer}, {{8, 0, 3}, {3}, {0, 8}, {5, 4, 3, 0}}, codec);
      expect_rows(run(frame), codec, expected_rows(frame.view(), *all_experts()));
    }
}

TEST_F(ExpertRunnerTest, ARowsBitsDoNotDependOnTheOthers) {
  runner_.set_store(all_experts());
  const std::vector<std::vector<uint16_t>> experts(50, {1, 7, 2});
  const DispatchFrame together({.layer = 2}, experts);
  const std::vector<std::byte> rows = run(together);
  const DispatchFrame alone({.layer = 2}, {{1, 7, 2}});  // the same seed: the same first row
  const std::vector<std::byte> row = run(alone);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), rows.begin()));
}

TEST_F(ExpertRunnerTest, ADispatchOfNoRowsGivesNone) {
  runner_.set_store(all_experts());
  EXPECT_TRUE(run(DispatchFrame({.layer = 2}, {})).empty());
}

TEST_F(ExpertRunnerTest, RefusesEverythingBeforeItHoldsExperts) {
  expect_refused(DispatchFrame({.layer = 0}, {{1}}), Code::not_found, "layer 0 has no experts here");
}

TEST_F(ExpertRunnerTest, RefusesWhatItDoesNotHold) {
  runner_.set_store(load_experts({2, 5}));
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
  runner_.set_store(load_experts({2}));
  runner_.set_store(load_experts({3}));
  expect_refused(DispatchFrame({.layer = 0}, {{2}}), Code::not_found, "expert 2 is not held");
  const DispatchFrame frame({.layer = 0}, {{3}});
  expect_rows(run(frame), Codec::f32, expected_rows(frame.view(), *all_experts()));
}

}  // namespace
}  // namespace guildhall
