#include "router/balance/trace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <span>
#include <sstream>

#include "proto/crc32c.h"
#include "tests/unit/balance/synthetic_routing.h"

namespace guildhall {
namespace {

using testing::HasSubstr;

std::string written(const TraceHeader& header, const std::vector<TraceStep>& steps) {
  std::ostringstream out;
  TraceWriter writer(out, header);
  for (const TraceStep& step : steps) writer.add(step);
  EXPECT_TRUE(writer.finish());
  return out.str();
}

// All steps of a file, or why it was refused.
Result<std::vector<TraceStep>> read(const std::string& bytes) {
  std::istringstream in(bytes);
  GH_ASSIGN(TraceReader reader, TraceReader::open(in, "t"));
  std::vector<TraceStep> steps;
  for (TraceStep step;;) {
    GH_ASSIGN(const bool more, reader.next(step));
    if (!more) return steps;
    steps.push_back(step);
  }
}

std::string refusal(const std::string& bytes) {
  const auto steps = read(bytes);
  return steps ? "" : steps.error().message;
}

// A file of one layer, two experts and top-1, whose only block has this payload and a right checksum.
std::string with_payload(const std::string& payload, uint32_t num_steps, uint32_t kind = 1) {
  TraceHeader header{.model = "m", .num_layers = 1, .num_experts = 2, .top_k = 1, .moe_layers = {0}};
  std::string file = written(header, {});
  file.resize(file.size() - 17);  // the end block
  std::string block(16, '\0');
  const auto payload_bytes = static_cast<uint32_t>(payload.size());
  std::memcpy(block.data() + 4, &kind, 4);
  std::memcpy(block.data() + 8, &num_steps, 4);
  std::memcpy(block.data() + 12, &payload_bytes, 4);
  block += payload;
  const uint32_t sum = crc32c(std::as_bytes(std::span(block)).subspan(4));
  std::memcpy(block.data(), &sum, 4);
  return file + block;
}

TEST(TraceFile, WhatIsWrittenIsRead) {
  const TraceHeader header = small_trace_header();
  const auto steps = synthetic_steps(header, {.num_steps = 30});
  const std::string bytes = written(header, steps);
  std::istringstream in(bytes);
  EXPECT_EQ(TraceReader::open(in, "t")->header(), header);
  EXPECT_EQ(read(bytes).value(), steps);
}

TEST(TraceFile, ManyStepsTakeSeveralBlocks) {
  TraceHeader header = small_trace_header();
  header.moe_layers = {2};
  auto steps = synthetic_steps(header, {.num_steps = 2 * kMaxTraceBlockSteps + 5, .decode_tokens = 1});
  for (TraceStep& step : steps) step.step_id = step.step_id * 3 + 1'000'000'000'000;
  EXPECT_EQ(read(written(header, steps)).value(), steps);
}

TEST(TraceFile, ATraceWithoutStepsIsWhole) { EXPECT_TRUE(read(written(small_trace_header(), {}))->empty()); }

TEST(TraceFile, IsCompact) {
  const TraceHeader header = small_trace_header();
  const auto steps = synthetic_steps(header, {.num_steps = 500});
  size_t pairs = 0;
  for (const TraceStep& step : steps)
    for (const auto* lists : {&step.prefill_le, &step.decode_le})
      for (const auto& list : *lists) pairs += list.size();
  EXPECT_LT(written(header, steps).size(), pairs * 5 / 2);
}

TEST(TraceFile, TheKeptFileReadsAsItAlwaysDid) {
  std::ifstream file(GUILDHALL_SOURCE_DIR "/tests/fuzz/corpus/routing_trace/skewed", std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  EXPECT_EQ(read(bytes.str()).value(), synthetic_steps(small_trace_header(), {}));
  EXPECT_EQ(bytes.str(), written(small_trace_header(), synthetic_steps(small_trace_header(), {})));
}

TEST(TraceFile, EveryCutIsRefusedWithAnOffset) {
  const std::string whole =
      written(small_trace_header(), synthetic_steps(small_trace_header(), {.num_steps = 3}));
  for (size_t size = 0; size < whole.size(); ++size)
    ASSERT_THAT(refusal(whole.substr(0, size)), testing::ContainsRegex("t: offset [0-9]+: ")) << size;
}

TEST(TraceFile, EveryFlippedBitIsRefused) {
  const std::string whole =
      written(small_trace_header(), synthetic_steps(small_trace_header(), {.num_steps = 2}));
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    ASSERT_THAT(refusal(damaged), HasSubstr("t: offset ")) << bit;
  }
}

TEST(TraceFile, SaysWhatIsWrongInAHeader) {
  std::string file = written(small_trace_header(), {});
  EXPECT_THAT(refusal("not a trace at all"), HasSubstr("offset 0: not a routing trace"));
  file[4] = 9;
  EXPECT_THAT(refusal(file), HasSubstr("version 9 is newer than ours, 1"));
  file[4] = 1, file[10] = 1, file[11] = 1;
  EXPECT_THAT(refusal(file), HasSubstr("offset 8: body_bytes is"));
}

TEST(TraceFile, ABlocksContentIsBounded) {
  // step 0 at 0 us, no prefill, 2 decode tokens: one list of two experts, one token each
  const std::string good("\x00\x00\x00\x02\x02\x00\x00\x00\x00", 9);
  EXPECT_THAT(refusal(with_payload(good, 1)), HasSubstr("the file ends in a block's header"));
  EXPECT_THAT(refusal(with_payload(good, 2)), HasSubstr("the step's id is cut off"));
  EXPECT_THAT(refusal(with_payload(good + "x", 1)), HasSubstr("goes on behind its last step"));
  EXPECT_THAT(refusal(with_payload(std::string("\x00\x00\x00\x00", 4), 1)), HasSubstr("decode_tokens is 0"));
  EXPECT_THAT(refusal(with_payload(std::string("\x00\x00\x00\x02\x03", 5), 1)),
              HasSubstr("number of experts in a list is 3"));
  EXPECT_THAT(refusal(with_payload(std::string("\x00\x00\x00\x02\x01\x02\x00", 7), 1)),
              HasSubstr("distance to the next expert is 2"));
  EXPECT_THAT(refusal(with_payload(std::string("\x00\x00\x00\x02\x01\x00\x00", 7), 1)),
              HasSubstr("adds up to 1, not to 2 tokens times 1"));
  EXPECT_THAT(refusal(with_payload(std::string(11, '\xff'), 1)), HasSubstr("more than 64 bits"));
  EXPECT_THAT(refusal(with_payload(good, 0)), HasSubstr("num_steps is 0"));
  EXPECT_THAT(refusal(with_payload(good, 1, 7)), HasSubstr("kind 7"));
  EXPECT_THAT(refusal(with_payload("\x05", 0, 2)), HasSubstr("the end counts 5 steps; 0 were read"));
}

TEST(TraceFile, NothingFollowsTheEnd) {
  EXPECT_THAT(refusal(written(small_trace_header(), {}) + "x"), HasSubstr("bytes follow the end block"));
}

}  // namespace
}  // namespace guildhall
