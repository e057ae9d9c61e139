// Any bytes as a routing trace, as they are and with every checksum put right (or no mutation would get past
// it): what the reader accepts is within the bounds, and is the same after it was written again.
#include <cstring>
#include <span>
#include <sstream>
#include <vector>

#include "base/check.h"
#include "proto/crc32c.h"
#include "router/balance/trace_file.h"

namespace {

using namespace guildhall;

void check_list(const TraceHeader& header, int64_t tokens, const std::vector<ExpertTokens>& list) {
  int64_t sum = 0;
  int32_t last = -1;
  for (const ExpertTokens& item : list) {
    GH_CHECK(item.expert > last && item.expert < header.num_experts && item.tokens > 0 &&
             item.tokens <= tokens);
    last = item.expert;
    sum += item.tokens;
  }
  GH_CHECK(sum == tokens * header.top_k);
}

void read(const std::string& bytes) {
  std::istringstream in(bytes);
  auto reader = TraceReader::open(in, "f");
  if (!reader) return;
  std::vector<TraceStep> steps;
  for (TraceStep step;;) {
    const auto more = reader->next(step);
    if (!more) return;
    if (!*more) break;
    for (const auto& list : step.prefill_le) check_list(reader->header(), step.prefill_tokens, list);
    for (const auto& list : step.decode_le) check_list(reader->header(), step.decode_tokens, list);
    steps.push_back(step);
  }
  std::stringstream again;
  TraceWriter writer(again, reader->header());
  for (const TraceStep& step : steps) writer.add(step);
  GH_CHECK(writer.finish());
  auto second = TraceReader::open(again, "g");
  GH_CHECK(second.has_value() && second->header() == reader->header());
  for (const TraceStep& step : steps) {
    TraceStep read_back;
    GH_CHECK(*second->next(read_back) && read_back == step);
  }
}

uint32_t number_at(const std::string& bytes, size_t at) {
  uint32_t value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

void seal(std::string& bytes, size_t at, size_t begin, size_t end) {
  const uint32_t sum = crc32c(std::as_bytes(std::span(bytes)).subspan(begin, end - begin));
  std::memcpy(bytes.data() + at, &sum, sizeof sum);
}

std::string with_checksums(std::string bytes) {
  if (bytes.size() < 16 || number_at(bytes, 8) > bytes.size() - 16) return bytes;
  size_t at = 16 + number_at(bytes, 8);
  seal(bytes, 12, 16, at);
  while (bytes.size() - at >= 16 && number_at(bytes, at + 12) <= bytes.size() - at - 16) {
    const size_t end = at + 16 + number_at(bytes, at + 12);
    seal(bytes, at, at + 4, end);
    at = end;
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  read(with_checksums(bytes));
  return 0;
}
