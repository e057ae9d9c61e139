// fuzz_control.cc: any bytes as a control link's stream. However the stream is cut, the same messages come
// out.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"

namespace {

using namespace guildhall;

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
