// Any bytes as a whole safetensors file, and as a header's text alone (where a mutation does not break the
// length before it): what the parser accepts lies inside the file and shares no byte.
#include <cstdlib>
#include <map>

#include "model/safetensors.h"

namespace {

using namespace guildhall;

void check_header(std::string_view header, int64_t file_bytes) {
  const Result<TensorMap> tensors = parse_safetensors_header(header, file_bytes, "f");
  if (tensors.has_error()) return;
  std::map<int64_t, int64_t> end_of_begin;
  for (const auto& [name, info] : *tensors) {
    if (info.begin < 8 + static_cast<int64_t>(header.size()) || info.begin > info.end ||
        info.end > file_bytes)
      std::abort();
    if (info.bytes() > 0 && !end_of_begin.emplace(info.begin, info.end).second) std::abort();
  }
  int64_t last = 0;
  for (const auto& [begin, end] : end_of_begin) {
    if (begin < last) std::abort();
    last = end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_header(text, static_cast<int64_t>(size) + 40);
  if (size < 8) return 0;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const Result<int64_t> header_bytes =
      safetensors_header_bytes(bytes.first<8>(), static_cast<int64_t>(size), "f");
  if (header_bytes.has_value())
    check_header(text.substr(8, static_cast<size_t>(*header_bytes)), static_cast<int64_t>(size));
  return 0;
}
