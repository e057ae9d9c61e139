// routing_trace_test.cc: a trace is recorded on demand, within its bounds and its folder, and can be
// replayed.
#include "router/routing_trace.h"

#include <cstdlib>
#include <fstream>

#include "tests/unit/router/routing_fixture.h"

namespace guildhall {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using State = RoutingTraceStatus::State;

class RoutingTraceTest : public ::testing::Test {
 protected:
  RoutingTraceTest() {
    std::string name = (fs::temp_directory_path() / "guildhall-trace-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~RoutingTraceTest() override { fs::remove_all(folder_); }

  RoutingTraceOptions options(int64_t max_bytes = 1 << 20) const {
    return {.folder = folder_ / "traces", .max_bytes = max_bytes, .suffix = "r0"};
  }
  static TraceStep step() {
    return {.decode_tokens = 1, .prefill_le = {{}, {}}, .decode_le = {{{0, 1}, {1, 1}}, {{2, 1}, {3, 1}}}};
  }
  static void wait_until(const std::function<bool()>& reached) {
    while (!reached()) std::this_thread::yield();
  }
  // Adds a step that is written for sure.
  static void record(RoutingTrace& trace) {
    const int64_t before = trace.status().num_steps;
    trace.add(step());
    wait_until([&] { return trace.status().num_steps > before || !trace.is_recording(); });
  }
  static std::vector<TraceStep> read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    TraceReader reader = TraceReader::open(in, file).value();
    EXPECT_EQ(reader.header(), routing_fixture_shape());
    std::vector<TraceStep> steps;
    for (TraceStep one; reader.next(one).value();) steps.push_back(one);
    return steps;
  }
  static std::string refusal(RoutingTrace& trace, const std::string& name) {
    const auto started = trace.start(name);
    return started ? "" : started.error().message;
  }
  fs::path folder_;
};

TEST_F(RoutingTraceTest, StepsAreReadAsTheyWereAdded) {
  RoutingTrace trace(routing_fixture_shape(), options());
  trace.add(step());  // nothing is recorded yet
  const auto started = trace.start("first");
  ASSERT_TRUE(started);
  EXPECT_EQ(started->state, State::recording);
  for (int i = 0; i < 5; ++i) record(trace);
  const auto stopped = trace.stop();
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->state, State::finished);
  EXPECT_EQ(stopped->num_steps, 5);
  EXPECT_EQ(stopped->num_dropped, 0);
  EXPECT_EQ(stopped->file, (folder_ / "traces/first-r0.ghtr").string());
  EXPECT_EQ(stopped->num_bytes, static_cast<int64_t>(fs::file_size(stopped->file)));
  trace.add(step());
  const std::vector<TraceStep> steps = read(stopped->file);
  ASSERT_EQ(steps.size(), 5u);
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].step_id, i);
    EXPECT_EQ(steps[i].decode_le, step().decode_le);
  }
}

TEST_F(RoutingTraceTest, ThereIsOneAtATimeAndEachHasAFileOfItsOwn) {
  RoutingTrace trace(routing_fixture_shape(), options());
  EXPECT_THAT(trace.stop().error().message, HasSubstr("no routing trace"));
  ASSERT_TRUE(trace.start("a"));
  EXPECT_THAT(refusal(trace, "b"), HasSubstr("a-r0.ghtr is being recorded"));
  ASSERT_TRUE(trace.stop());
  EXPECT_TRUE(trace.stop()) << "asking twice does no harm";
  EXPECT_THAT(refusal(trace, "a"), HasSubstr("exists already"));
  ASSERT_TRUE(trace.start("b"));
  record(trace);
  EXPECT_EQ(trace.stop()->num_steps, 1);
  EXPECT_TRUE(read((folder_ / "traces/a-r0.ghtr").string()).empty());
}

TEST_F(RoutingTraceTest, NoNameLeadsOutOfTheFolder) {
  RoutingTrace trace(routing_fixture_shape(), options());
  for (const std::string& name :
       {std::string(), std::string("../out"), std::string("a/b"), std::string("/tmp/x"), std::string("a.b"),
        std::string("."), std::string("a\0b", 3), std::string("ä"), std::string(65, 'a')})
    EXPECT_THAT(refusal(trace, name), HasSubstr("1 to 64 letters")) << name;
  fs::create_directory(folder_ / "traces");
  fs::create_symlink(folder_ / "outside", folder_ / "traces/link-r0.ghtr");
  EXPECT_THAT(refusal(trace, "link"), HasSubstr("exists already"));
  EXPECT_FALSE(fs::exists(folder_ / "outside"));
}

TEST_F(RoutingTraceTest, WithoutAFolderOrExpertsNothingIsRecorded) {
  RoutingTrace nowhere(routing_fixture_shape(), {});
  EXPECT_THAT(refusal(nowhere, "a"), HasSubstr("balance.trace.folder"));
  TraceHeader dense = routing_fixture_shape();
  dense.moe_layers.clear();
  RoutingTrace nothing(dense, options());
  EXPECT_THAT(refusal(nothing, "a"), HasSubstr("no layers with experts"));
}

TEST_F(RoutingTraceTest, ItEndsBeforeItIsLargerThanItMayBe) {
  RoutingTrace trace(routing_fixture_shape(), options(1000));
  ASSERT_TRUE(trace.start("small"));
  while (trace.is_recording()) record(trace);
  const RoutingTraceStatus status = *trace.stop();
  EXPECT_EQ(status.state, State::full);
  EXPECT_LE(fs::file_size(status.file), 1000u);
  EXPECT_GT(status.num_steps, 10);
  EXPECT_EQ(read(status.file).size(), static_cast<size_t>(status.num_steps));
  EXPECT_TRUE(trace.start("next"));
}

// A step that is beyond the format, or comes when too many wait, leaves a gap in the ids.
TEST_F(RoutingTraceTest, AStepThatIsLeftOutIsCountedAndItsIdIsMissing) {
  RoutingTrace trace(routing_fixture_shape(), options());
  ASSERT_TRUE(trace.start("gap"));
  record(trace);
  TraceStep large = step();
  large.decode_tokens = kMaxTraceTokens + 1;
  trace.add(std::move(large));
  record(trace);
  const RoutingTraceStatus status = *trace.stop();
  EXPECT_EQ(status.num_dropped, 1);
  const std::vector<TraceStep> steps = read(status.file);
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0].step_id, 0u);
  EXPECT_EQ(steps[1].step_id, 2u);
}

TEST_F(RoutingTraceTest, EveryStepIsWrittenOrCounted) {
  RoutingTrace trace(routing_fixture_shape(), options());
  ASSERT_TRUE(trace.start("many"));
  std::vector<std::thread> engines;
  for (int i = 0; i < 2; ++i)
    engines.emplace_back([&] {
      for (int n = 0; n < 5000; ++n) trace.add(step());
    });
  for (std::thread& engine : engines) engine.join();
  const RoutingTraceStatus status = *trace.stop();
  EXPECT_EQ(status.num_steps + status.num_dropped, 10'000);
  EXPECT_EQ(read(status.file).size(), static_cast<size_t>(status.num_steps));
}

TEST_F(RoutingTraceTest, AFolderThatCannotBeWrittenToIsSaidAndLeavesNothingUnderWay) {
  std::ofstream(folder_ / "traces") << "a file";
  RoutingTrace trace(routing_fixture_shape(), options());
  EXPECT_THAT(refusal(trace, "a"), HasSubstr("cannot be written"));
  EXPECT_FALSE(trace.is_recording());
  EXPECT_EQ(trace.status().state, State::none);
}

TEST_F(RoutingTraceTest, WhatIsRecordedAtTheEndIsWhole) {
  std::string file;
  {
    RoutingTrace trace(routing_fixture_shape(), options());
    file = trace.start("last")->file;
    record(trace);
  }
  EXPECT_EQ(read(file).size(), 1u);
}

}  // namespace
}  // namespace guildhall
