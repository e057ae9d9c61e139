// fuzz_control.cc: any bytes as a control link's stream. However the stream is cut, the same messages come
// out; and what a router takes of a worker's holdings are experts that there are.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "router/control_messages.h"

namespace {

using namespace guildhall;

void check_holdings(const control::Holdings& message) {
  const ExpertGrid grid{.is_moe_layer = {false, true, true}, .num_experts = 8};
  const Result<Holdings> holdings = read_holdings(message, grid);
  if (holdings.has_error()) return;
  GH_CHECK(holdings->version > 0 && holdings->experts_l.size() == grid.is_moe_layer.size());
  for (size_t l = 0; l < grid.is_moe_layer.size(); ++l) {
    int32_t last = -1;
    for (const int32_t expert : holdings->experts_l[l]) {
      GH_CHECK(grid.is_moe_layer[l] && expert > last && expert < grid.num_experts);
      last = expert;
    }
  }
}

// The messages of a stream fed `step` bytes at a time, re-encoded; ends with "error" when the stream was
// refused.
std::vector<std::string> messages_of(std::string_view stream, size_t step) {
  EnvelopeAssembler assembler;
  std::vector<std::string> messages;
  for (size_t at = 0; at < stream.size(); at += step) {
    assembler.feed(stream.substr(at, step));
    for (;;) {
      const auto next = assembler.next();
      if (!next) {
        GH_CHECK(assembler.next().has_error());
        messages.push_back("error");
        return messages;
      }
      if (!*next) break;
      if ((*next)->has_holdings()) check_holdings((*next)->holdings());
      messages.push_back(*encode_envelope(**next));
    }
  }
  return messages;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view stream(reinterpret_cast<const char*>(data), size);
  const auto whole = messages_of(stream, stream.size() + 1);
  GH_CHECK(messages_of(stream, 1) == whole);
  GH_CHECK(messages_of(stream, 7) == whole);
  return 0;
}
