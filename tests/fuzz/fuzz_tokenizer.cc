// tokenizer.json of any bytes and, after a zero byte, a text of any bytes: a tokenizer that is accepted
// encodes to ids of its vocabulary, decodes to UTF-8, and streams without giving up more or less than it was
// given.
#include <cstdlib>
#include <string_view>

#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace {

void check(bool good) {
  if (!good) std::abort();
}

void check_text(const guildhall::Tokenizer& tokenizer, std::string_view text, bool special) {
  using namespace guildhall;
  const std::vector<int32_t> ids = tokenizer.encode(text, {special, special});
  for (const int32_t id : ids) check(id >= 0);
  const std::string decoded = tokenizer.decode(ids, special);
  check(valid_utf8_length(decoded) == decoded.size());
  StreamDecoder stream(tokenizer, special);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  check(valid_utf8_length(streamed) == streamed.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const auto tokenizer = guildhall::Tokenizer::parse(input.substr(0, zero), "");
  if (tokenizer.has_error() || zero == std::string_view::npos) return 0;
  for (const bool special : {false, true}) check_text(**tokenizer, input.substr(zero + 1), special);
  return 0;
}
