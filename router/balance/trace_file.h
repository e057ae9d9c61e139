// trace_file.h: the routing trace: how many tokens each expert got in each step, as a compact, checksummed
// file. Layout and bounds: proto/TRACE.md. The reader trusts nothing and names the offset of what is wrong.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace guildhall {

inline constexpr uint32_t kTraceMagic = 0x52544847;  // "GHTR"
inline constexpr uint16_t kTraceVersion = 1;
inline constexpr uint32_t kMaxTraceHeaderBytes = 1 << 16;
inline constexpr uint32_t kMaxTraceBlockBytes = 64 << 20;  // a step of 1024 layers x 4096 experts fits
inline constexpr uint32_t kMaxTraceBlockSteps = 4096;
inline constexpr int64_t kMaxTraceTokens = 1 << 16;  // per step and phase
inline constexpr uint64_t kMaxTraceName = 256;       // bytes
inline constexpr int64_t kMaxTraceWeights = int64_t{1} << 48;

struct TraceHeader {
  std::string model;
  int64_t num_layers = 0, num_experts = 0, top_k = 0;
  int64_t num_groups = 1;           // of the gate
  int64_t expert_bytes = 0;         // one expert's weights as workers hold them
  int64_t expert_params = 0;        // their number
  std::vector<int32_t> moe_layers;  // ascending

  bool operator==(const TraceHeader&) const = default;
};

struct ExpertTokens {
  int32_t expert = 0, tokens = 0;  // tokens > 0
  bool operator==(const ExpertTokens&) const = default;
};

struct TraceStep {
  uint64_t step_id = 0;
  uint64_t time_us = 0;  // since the trace began
  int64_t prefill_tokens = 0, decode_tokens = 0;
  // [index into moe_layers]: the experts that got tokens, ascending; empty in a phase without tokens.
  std::vector<std::vector<ExpertTokens>> prefill_le, decode_le;

  bool operator==(const TraceStep&) const = default;
};

// One thread. Steps are kept until a block is full.
class TraceWriter {
 public:
  // Writes the header to `out`, which is borrowed and binary. The header and the steps are within the bounds
  // of TRACE.md: anything else is a bug.
  TraceWriter(std::ostream& out, TraceHeader header);

  void add(const TraceStep& step);
  // Of the file, were it finished now; and the most that a step adds to it.
  uint64_t num_bytes() const;
  static uint64_t most_bytes(const TraceStep& step);
  // The last block and the end. data_loss when the stream did not take everything.
  Result<void> finish();

 private:
  void write_block(uint32_t kind);

  std::ostream& out_;
  const TraceHeader header_;
  std::string payload_;  // of the block that is being filled
  uint64_t written_bytes_ = 0;
  bool is_finished_ = false;
  uint32_t block_steps_ = 0;
  uint64_t num_steps_ = 0;
  uint64_t last_id_ = 0, last_time_us_ = 0;
};

// One thread. Memory is bounded by the largest block, whatever the file says.
class TraceReader {
 public:
  // Reads the header. `in` is borrowed and binary; `name` is the file's, for errors.
  static Result<TraceReader> open(std::istream& in, std::string name);

  const TraceHeader& header() const { return header_; }
  // The next step, in order; false at the end. An error is the last thing a reader says.
  Result<bool> next(TraceStep& step);

 private:
  TraceReader(std::istream& in, std::string name) : in_(&in), name_(std::move(name)) {}

  Result<void> read_header();
  Result<void> parse_header_body();
  Result<void> read_block();
  Result<void> check_end();
  Result<void> parse_step(TraceStep& step);
  Result<void> parse_list(int64_t tokens, std::vector<ExpertTokens>& list);
  Result<void> read_bytes(size_t num_bytes, std::string_view what, std::string& bytes);
  Result<uint64_t> varint(std::string_view what, uint64_t least, uint64_t most);
  Status refuse(std::string_view why) const;

  std::istream* in_;
  std::string name_;
  TraceHeader header_;
  std::string payload_;          // what is being parsed
  size_t at_ = 0;                // in payload_
  uint64_t payload_offset_ = 0;  // of payload_ in the file
  uint64_t file_offset_ = 0;     // behind what was read
  uint32_t steps_left_ = 0;      // in payload_
  uint64_t num_steps_ = 0;
  uint64_t last_id_ = 0, last_time_us_ = 0;
  bool is_first_of_block_ = true, at_end_ = false;
};

}  // namespace guildhall
