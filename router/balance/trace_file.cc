#include "router/balance/trace_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>
#include <span>

#include "base/check.h"
#include "proto/crc32c.h"
#include "proto/exchange.h"

namespace guildhall {
namespace {

static_assert(std::endian::native == std::endian::little, "integers are copied: little-endian machines only");

constexpr uint32_t kStepsKind = 1, kEndKind = 2;
constexpr size_t kBlockHeaderBytes = 16;
constexpr size_t kHeaderBytes = 16;
constexpr size_t kFlushBytes = 1 << 20;  // a block this large is written
constexpr size_t kMaxVarintBytes = 10, kMaxCountBytes = 2, kMaxTokensBytes = 3;  // as varints: the bounds'
static_assert(kMaxExperts <= 1 << 14 && kMaxTraceTokens <= 1 << 21);
constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();

uint32_t checksum(std::string_view bytes) { return crc32c(std::as_bytes(std::span(bytes))); }

template <class T>
void put_fixed(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
T fixed_at(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <class T>
void put_varint(std::string& out, T number) {
  GH_CHECK(number >= 0);
  auto value = static_cast<uint64_t>(number);
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_list(std::string& out, std::span<const ExpertTokens> list) {
  put_varint(out, list.size());
  int32_t next = 0;
  for (const ExpertTokens& item : list) {
    put_varint(out, item.expert - next);
    put_varint(out, item.tokens - 1);
    next = item.expert + 1;
  }
}

}  // namespace

TraceWriter::TraceWriter(std::ostream& out, TraceHeader header) : out_(out), header_(std::move(header)) {
  std::string body;
  put_varint(body, header_.model.size());
  body += header_.model;
  for (const int64_t value : {header_.num_layers, header_.num_experts, header_.top_k, header_.num_groups,
                              header_.expert_bytes, header_.expert_params})
    put_varint(body, value);
  put_varint(body, header_.moe_layers.size());
  int32_t next = 0;
  for (const int32_t layer : header_.moe_layers) {
    put_varint(body, layer - next);
    next = layer + 1;
  }
  std::string bytes;
  put_fixed(bytes, kTraceMagic);
  put_fixed(bytes, kTraceVersion);
  put_fixed(bytes, uint16_t{0});
  put_fixed(bytes, static_cast<uint32_t>(body.size()));
  put_fixed(bytes, checksum(body));
  out_ << bytes << body;
  written_bytes_ = bytes.size() + body.size();
}

void TraceWriter::add(const TraceStep& step) {
  GH_CHECK(num_steps_ == 0 || (step.step_id > last_id_ && step.time_us >= last_time_us_));
  const bool is_first = block_steps_ == 0;
  put_varint(payload_, is_first ? step.step_id : step.step_id - last_id_);
  put_varint(payload_, is_first ? step.time_us : step.time_us - last_time_us_);
  put_varint(payload_, step.prefill_tokens);
  put_varint(payload_, step.decode_tokens);
  for (size_t i = 0; i < header_.moe_layers.size(); ++i) {
    if (step.prefill_tokens > 0) put_list(payload_, step.prefill_le[i]);
    if (step.decode_tokens > 0) put_list(payload_, step.decode_le[i]);
  }
  last_id_ = step.step_id;
  last_time_us_ = step.time_us;
  ++num_steps_;
  if (++block_steps_ == kMaxTraceBlockSteps || payload_.size() >= kFlushBytes) write_block(kStepsKind);
}

void TraceWriter::write_block(uint32_t kind) {
  std::string after_checksum;
  put_fixed(after_checksum, kind);
  put_fixed(after_checksum, block_steps_);
  put_fixed(after_checksum, static_cast<uint32_t>(payload_.size()));
  after_checksum += payload_;
  std::string bytes;
  put_fixed(bytes, checksum(after_checksum));
  out_ << bytes << after_checksum;
  written_bytes_ += bytes.size() + after_checksum.size();
  payload_.clear();
  block_steps_ = 0;
}

uint64_t TraceWriter::num_bytes() const {
  if (is_finished_) return written_bytes_;
  const uint64_t open_block = block_steps_ > 0 ? kBlockHeaderBytes + payload_.size() : 0;
  return written_bytes_ + open_block + kBlockHeaderBytes + kMaxVarintBytes;
}

uint64_t TraceWriter::most_bytes(const TraceStep& step) {
  uint64_t bytes = kBlockHeaderBytes + 4 * kMaxVarintBytes;
  for (const auto* lists : {&step.prefill_le, &step.decode_le})
    for (const auto& list : *lists)
      bytes += kMaxCountBytes + list.size() * (kMaxCountBytes + kMaxTokensBytes);
  return bytes;
}

Result<void> TraceWriter::finish() {
  if (block_steps_ > 0) write_block(kStepsKind);
  put_varint(payload_, num_steps_);
  write_block(kEndKind);
  is_finished_ = true;
  out_.flush();
  if (!out_)
    return Status{Code::data_loss, "the routing trace could not be written whole; is the disk full?"};
  return {};
}

Status TraceReader::refuse(std::string_view why) const {
  return Status{Code::data_loss, fmt::format("{}: offset {}: {}", name_,
                                             payload_.empty() ? file_offset_ : payload_offset_ + at_, why)};
}

// In pieces, so that a length that lies costs no more memory than the file has bytes.
Result<void> TraceReader::read_bytes(size_t num_bytes, std::string_view what, std::string& bytes) {
  bytes.clear();
  while (bytes.size() < num_bytes) {
    const size_t begin = bytes.size();
    const size_t piece = std::min<size_t>(num_bytes - begin, 1 << 20);
    bytes.resize(begin + piece);
    in_->read(bytes.data() + begin, static_cast<std::streamsize>(piece));
    const auto got = static_cast<size_t>(in_->gcount());
    file_offset_ += got;
    if (got < piece) {
      payload_.clear();
      return refuse(fmt::format("the file ends in {}, which takes {} bytes", what, num_bytes));
    }
  }
  return {};
}

Result<uint64_t> TraceReader::varint(std::string_view what, uint64_t least, uint64_t most) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7, ++at_) {
    if (at_ == payload_.size()) return refuse(fmt::format("{} is cut off", what));
    const auto byte = static_cast<uint8_t>(payload_[at_]);
    if (shift == 63 && byte > 1) return refuse(fmt::format("{} has more than 64 bits", what));
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) break;
  }
  if (value < least || value > most)
    return refuse(fmt::format("{} is {}, not {} to {}", what, value, least, most));
  ++at_;
  return value;
}

Result<TraceReader> TraceReader::open(std::istream& in, std::string name) {
  TraceReader reader(in, std::move(name));
  GH_TRY(reader.read_header());
  return reader;
}

Result<void> TraceReader::read_header() {
  std::string fixed;
  GH_TRY(read_bytes(kHeaderBytes, "the header", fixed));
  const auto wrong = [&](size_t offset, std::string why) {
    return Status{Code::data_loss, fmt::format("{}: offset {}: {}", name_, offset, why)};
  };
  if (fixed_at<uint32_t>(fixed, 0) != kTraceMagic) return wrong(0, "not a routing trace");
  const auto version = fixed_at<uint16_t>(fixed, 4);
  if (version > kTraceVersion)
    return Status{Code::unsupported, fmt::format("{}: offset 4: version {} is newer than ours, {}", name_,
                                                 version, kTraceVersion)};
  if (version == 0) return wrong(4, "version is 0");
  if (fixed_at<uint16_t>(fixed, 6) != 0) return wrong(6, "the reserved field is not 0");
  const auto body_bytes = fixed_at<uint32_t>(fixed, 8);
  if (body_bytes > kMaxTraceHeaderBytes)
    return wrong(8, fmt::format("body_bytes is {}, more than {}", body_bytes, kMaxTraceHeaderBytes));
  GH_TRY(read_bytes(body_bytes, "the header", payload_));
  payload_offset_ = kHeaderBytes;
  if (fixed_at<uint32_t>(fixed, 12) != checksum(payload_)) return wrong(12, "the header's checksum differs");
  return parse_header_body();
}

Result<void> TraceReader::parse_header_body() {
  GH_ASSIGN(const uint64_t name_bytes, varint("the length of the model's name", 0, kMaxTraceName));
  if (name_bytes > payload_.size() - at_) return refuse("the model's name is cut off");
  header_.model = payload_.substr(at_, name_bytes);
  at_ += name_bytes;
  const auto field = [&](std::string_view what, uint64_t least, uint64_t most, int64_t& out) -> Result<void> {
    GH_ASSIGN(const uint64_t value, varint(what, least, most));
    out = static_cast<int64_t>(value);
    return {};
  };
  GH_TRY(field("num_layers", 1, kMaxLayers, header_.num_layers));
  GH_TRY(field("num_experts", 1, kMaxExperts, header_.num_experts));
  GH_TRY(field("top_k", 1, std::min<uint64_t>(kMaxTopK, static_cast<uint64_t>(header_.num_experts)),
               header_.top_k));
  GH_TRY(field("num_groups", 1, static_cast<uint64_t>(header_.num_experts), header_.num_groups));
  if (header_.num_experts % header_.num_groups != 0)
    return refuse(fmt::format("{} groups do not divide {} experts", header_.num_groups, header_.num_experts));
  GH_TRY(field("expert_bytes", 0, kMaxTraceWeights, header_.expert_bytes));
  GH_TRY(field("expert_params", 0, kMaxTraceWeights, header_.expert_params));
  int64_t num_moe_layers = 0;
  GH_TRY(field("num_moe_layers", 1, static_cast<uint64_t>(header_.num_layers), num_moe_layers));
  uint64_t next = 0;
  for (int64_t i = 0; i < num_moe_layers; ++i) {
    const auto left = static_cast<uint64_t>(header_.num_layers) - next;
    if (left == 0) return refuse(fmt::format("a layer beyond the {}", header_.num_layers));
    GH_ASSIGN(const uint64_t gap, varint("the distance to the next layer", 0, left - 1));
    header_.moe_layers.push_back(static_cast<int32_t>(next + gap));
    next += gap + 1;
  }
  if (at_ != payload_.size()) return refuse("the header goes on behind its last field");
  return {};
}

Result<void> TraceReader::read_block() {
  const uint64_t begin = file_offset_;
  payload_.clear();
  std::string fixed;
  GH_TRY(
      read_bytes(kBlockHeaderBytes, "a block's header (a trace that was finished has an end block)", fixed));
  const auto wrong = [&](size_t offset, std::string why) {
    return Status{Code::data_loss, fmt::format("{}: offset {}: {}", name_, begin + offset, why)};
  };
  const auto kind = fixed_at<uint32_t>(fixed, 4), steps = fixed_at<uint32_t>(fixed, 8);
  const auto payload_bytes = fixed_at<uint32_t>(fixed, 12);
  if (kind != kStepsKind && kind != kEndKind) return wrong(4, fmt::format("kind {} is not 1 or 2", kind));
  if (kind == kEndKind ? steps != 0 : steps == 0 || steps > kMaxTraceBlockSteps)
    return wrong(8, fmt::format("num_steps is {}, not {}", steps,
                                kind == kEndKind ? "0" : fmt::format("1 to {}", kMaxTraceBlockSteps)));
  if (payload_bytes > kMaxTraceBlockBytes)
    return wrong(12, fmt::format("payload_bytes is {}, more than {}", payload_bytes, kMaxTraceBlockBytes));
  GH_TRY(read_bytes(payload_bytes, "a block", payload_));
  if (fixed_at<uint32_t>(fixed, 0) != checksum(fixed.substr(4) + payload_))
    return wrong(0, "the block's checksum differs");
  payload_offset_ = begin + kBlockHeaderBytes;
  at_ = 0;
  steps_left_ = steps;
  is_first_of_block_ = true;
  at_end_ = kind == kEndKind;
  return {};
}

Result<void> TraceReader::check_end() {
  GH_ASSIGN(const uint64_t total, varint("the number of steps", 0, kAny));
  if (total != num_steps_)
    return refuse(fmt::format("the end counts {} steps; {} were read", total, num_steps_));
  if (at_ != payload_.size()) return refuse("the end block goes on behind its number");
  if (in_->peek() != std::istream::traits_type::eof()) return refuse("bytes follow the end block");
  return {};
}

Result<bool> TraceReader::next(TraceStep& step) {
  if (at_end_) return false;
  if (steps_left_ == 0) {
    if (at_ != payload_.size()) return refuse("the block goes on behind its last step");
    GH_TRY(read_block());
    if (at_end_) {
      GH_TRY(check_end());
      return false;
    }
  }
  GH_TRY(parse_step(step));
  --steps_left_;
  ++num_steps_;
  return true;
}

Result<void> TraceReader::parse_step(TraceStep& step) {
  const bool is_very_first = num_steps_ == 0;
  const uint64_t base_id = is_first_of_block_ ? 0 : last_id_;
  const uint64_t base_time = is_first_of_block_ ? 0 : last_time_us_;
  const uint64_t least_id = is_very_first ? 0 : is_first_of_block_ ? last_id_ + 1 : 1;
  if (!is_very_first && last_id_ == kAny) return refuse("a step after the largest id");
  GH_ASSIGN(const uint64_t id, varint("the step's id", least_id, kAny - base_id));
  GH_ASSIGN(const uint64_t time,
            varint("the step's time", is_first_of_block_ ? last_time_us_ : 0, kAny - base_time));
  GH_ASSIGN(const uint64_t prefill, varint("prefill_tokens", 0, kMaxTraceTokens));
  GH_ASSIGN(const uint64_t decode, varint("decode_tokens", prefill == 0, kMaxTraceTokens));
  step.step_id = last_id_ = base_id + id;
  step.time_us = last_time_us_ = base_time + time;
  step.prefill_tokens = static_cast<int64_t>(prefill);
  step.decode_tokens = static_cast<int64_t>(decode);
  is_first_of_block_ = false;
  const size_t num_layers = header_.moe_layers.size();
  step.prefill_le.assign(num_layers, {});
  step.decode_le.assign(num_layers, {});
  for (size_t i = 0; i < num_layers; ++i) {
    if (prefill > 0) GH_TRY(parse_list(step.prefill_tokens, step.prefill_le[i]));
    if (decode > 0) GH_TRY(parse_list(step.decode_tokens, step.decode_le[i]));
  }
  return {};
}

Result<void> TraceReader::parse_list(int64_t tokens, std::vector<ExpertTokens>& list) {
  const auto num_experts = static_cast<uint64_t>(header_.num_experts);
  GH_ASSIGN(const uint64_t count, varint("the number of experts in a list", 1, num_experts));
  uint64_t next = 0;
  int64_t sum = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (next == num_experts) return refuse(fmt::format("an expert beyond the {}", num_experts));
    GH_ASSIGN(const uint64_t gap, varint("the distance to the next expert", 0, num_experts - next - 1));
    GH_ASSIGN(const uint64_t more, varint("an expert's tokens less 1", 0, static_cast<uint64_t>(tokens) - 1));
    list.push_back({static_cast<int32_t>(next + gap), static_cast<int32_t>(more + 1)});
    next += gap + 1;
    sum += list.back().tokens;
  }
  if (sum != tokens * header_.top_k)
    return refuse(fmt::format("a list adds up to {}, not to {} tokens times {}", sum, tokens, header_.top_k));
  return {};
}

}  // namespace guildhall
