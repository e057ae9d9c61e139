// A chat template of any bytes and, after a zero byte, what it is given as JSON of any bytes: it is refused,
// fails, or prints UTF-8 within its limits, the same each time.
#include <boost/json.hpp>
#include <cstdlib>
#include <string_view>

#include "model/chat_template/jinja_template.h"
#include "model/tokenizer/utf8.h"

namespace {

void check(bool good) {
  if (!good) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace guildhall;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  jinja::TemplateLimits limits;
  limits.max_text_bytes = 1 << 14;
  limits.max_steps = 1 << 14;
  const auto parsed = jinja::JinjaTemplate::parse(input.substr(0, zero), limits);
  if (parsed.has_error()) return 0;
  boost::json::value context = boost::json::object();
  if (zero != std::string_view::npos) {
    boost::system::error_code error;
    boost::json::value given = boost::json::parse(input.substr(zero + 1), error);
    if (!error && given.is_object()) context = std::move(given);
  }
  const auto clock = [] { return std::chrono::system_clock::from_time_t(1735787045); };
  const Result<std::string> text = parsed->render(context.get_object(), clock);
  const Result<std::string> again = parsed->render(context.get_object(), clock);
  check(text.has_value() == again.has_value());
  if (!text) return 0;
  check(*text == *again);
  check(text->size() <= limits.max_text_bytes);
  check(valid_utf8_length(*text) == text->size());
  return 0;
}
