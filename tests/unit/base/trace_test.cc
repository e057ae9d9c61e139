// trace_test.cc: the file is a Chrome trace: it parses, lanes have names, spans nest, the newest are kept.
#include "base/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

namespace guildhall {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

class TraceTest : public ::testing::Test {
 protected:
  ~TraceTest() override {
    stop_trace();
    std::filesystem::remove(file_);
  }
  void start(int64_t max_events) { start_trace({.file = file_, .process = "w0", .max_events = max_events}); }
  json::array written() {
    EXPECT_TRUE(write_trace());
    std::stringstream text;
    text << std::ifstream(file_).rdbuf();
    return json::parse(text.str()).at("traceEvents").as_array();
  }
  static std::vector<json::object> spans(const json::array& events) {
    std::vector<json::object> out;
    for (const json::value& e : events)
      if (e.at("ph") == "X") out.push_back(e.as_object());
    return out;
  }
  static std::map<int64_t, std::string> lanes(const json::array& events) {
    std::map<int64_t, std::string> out;
    for (const json::value& e : events)
      if (e.at("name") == "thread_name")
        out[e.at("tid").to_number<int64_t>()] = e.at("args").at("name").as_string();
    return out;
  }

  const std::string file_ = (std::filesystem::path(::testing::TempDir()) /
                             (std::string("trace-") + std::to_string(getpid()) + ".json"))
                                .string();
};

TEST_F(TraceTest, WithoutAStartNothingIsKeptOrWritten) {
  { TraceSpan span("attention"); }
  EXPECT_FALSE(tracing());
  EXPECT_TRUE(write_trace());
  EXPECT_FALSE(std::filesystem::exists(file_));
}

TEST_F(TraceTest, ASpanHasItsNameTimesLaneAndArguments) {
  start(100);
  name_trace_thread("engine");
  record_span("attention", 5'001'002, 7'001'003, {.step = 3, .layer = 0, .micro_batch = 1, .tokens = 64});
  const json::array events = written();
  const auto all = spans(events);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].at("name"), "attention");
  EXPECT_DOUBLE_EQ(all[0].at("ts").to_number<double>(), 5001.002);
  EXPECT_DOUBLE_EQ(all[0].at("dur").to_number<double>(), 2000.001);
  EXPECT_EQ(all[0].at("pid").to_number<int64_t>(), getpid());
  EXPECT_EQ(lanes(events).at(all[0].at("tid").to_number<int64_t>()), "engine");
  const json::object args{{"step", 3}, {"layer", 0}, {"micro_batch", 1}, {"tokens", 64}};
  EXPECT_EQ(all[0].at("args"), args);
  EXPECT_THAT(events, ::testing::Contains(::testing::Truly([](const json::value& e) {
                return e.at("name") == "process_name" && e.at("args").at("name") == "w0";
              })));
}

TEST_F(TraceTest, ArgumentsThatDoNotApplyAreLeftOut) {
  start(100);
  record_span("embed", 1, 2, {.tokens = 5});
  EXPECT_EQ(spans(written())[0].at("args"), (json::object{{"tokens", 5}}));
}

TEST_F(TraceTest, SpansOfAThreadNestAndEachThreadHasALane) {
  start(10'000);
  const auto work = [](const std::string& name) {
    name_trace_thread(name);
    for (int i = 0; i < 100; ++i) {
      TraceSpan step("step");
      for (int k = 0; k < 3; ++k) TraceSpan part("part");
    }
  };
  std::thread a(work, "a"), b(work, "b");
  a.join(), b.join();
  const json::array events = written();
  std::map<int64_t, std::vector<std::pair<double, double>>> by_lane;
  for (const json::object& s : spans(events)) {
    const double begin = s.at("ts").to_number<double>();
    by_lane[s.at("tid").to_number<int64_t>()].emplace_back(begin, begin + s.at("dur").to_number<double>());
  }
  ASSERT_EQ(by_lane.size(), 2u);
  for (auto& [tid, list] : by_lane) {
    EXPECT_THAT(lanes(events).at(tid), ::testing::AnyOf("a", "b"));
    EXPECT_EQ(list.size(), 400u);
    // A span that begins inside another ends inside it.
    constexpr double kRounding = 1e-3;  // of a sum of decimal microseconds
    std::sort(list.begin(), list.end(), [](const auto& x, const auto& y) {
      return x.first < y.first || (x.first == y.first && x.second > y.second);
    });
    std::vector<double> open;
    for (const auto& [begin, end] : list) {
      while (!open.empty() && open.back() <= begin + kRounding) open.pop_back();
      if (!open.empty()) { EXPECT_LE(end, open.back() + kRounding); }
      open.push_back(end);
    }
  }
}

TEST_F(TraceTest, TheNewestSpansAreKeptInOrder) {
  start(10);
  for (int64_t i = 0; i < 25; ++i) record_span("x", i, i + 1, {.step = i});
  const auto all = spans(written());
  ASSERT_EQ(all.size(), 10u);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].at("args").at("step").to_number<size_t>(), 15 + i);
}

TEST_F(TraceTest, WritingDoesNotEndIt) {
  start(10);
  record_span("x", 1, 2, {});
  EXPECT_EQ(spans(written()).size(), 1u);
  record_span("x", 3, 4, {});
  EXPECT_EQ(spans(written()).size(), 2u);
}

TEST_F(TraceTest, AFileThatCannotBeWrittenIsNamed) {
  start_trace({.file = file_ + ".missing/trace.json", .process = "w0", .max_events = 1});
  const Result<void> failed = write_trace();
  ASSERT_TRUE(failed.has_error());
  EXPECT_THAT(failed.error().message, HasSubstr("trace.file: cannot write " + file_ + ".missing/trace.json"));
}

TEST(TraceFile, IsEachProcessOwn) {
  EXPECT_EQ(trace_file_of("traces/run.json", "w0"), "traces/run-w0.json");
  EXPECT_EQ(trace_file_of("run", "r0"), "run-r0");
}

}  // namespace
}  // namespace guildhall
