// jinja_template.h: a chat template in Jinja's language, parsed once and rendered any number of times. What
// it prints equals Jinja 3.1 as transformers sets it up: trim_blocks, lstrip_blocks, loop controls,
// json.dumps as tojson, no escaping of HTML, an immutable sandbox.
//
// There is nothing in the language that reads or writes anything outside a render, and every render is
// bounded. Lists may be changed by append and pop, which that sandbox refuses: they are a render's own copies
// here. Integers have 64 bits; what does not fit is an error.
#pragma once

#include <boost/json/object.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall::jinja {

struct TemplateLimits {
  size_t max_source_bytes = 1 << 20;  // of the template
  int max_depth = 200;                // of nested statements, expressions and macro calls: each takes stack
  size_t max_text_bytes = 64 << 20;   // of the output, and of any one text on the way
  size_t max_steps = 16 << 20;        // nodes evaluated, items made, and bytes copied / 16: about a second
};

// Local time for strftime_now.
using TemplateClock = std::function<std::chrono::system_clock::time_point()>;

// Immutable: any thread may render.
class JinjaTemplate {
 public:
  // Errors tell the line and what is not supported.
  static Result<JinjaTemplate> parse(std::string_view source, const TemplateLimits& limits = {});
  JinjaTemplate(JinjaTemplate&&) noexcept;
  JinjaTemplate& operator=(JinjaTemplate&&) noexcept;
  ~JinjaTemplate();

  // `names` are what the template sees: messages, tools, bos_token... A template's own raise_exception gives
  // its message as it is; other errors tell the line.
  Result<std::string> render(const boost::json::object& names, const TemplateClock& clock) const;

 private:
  struct Impl;
  explicit JinjaTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace guildhall::jinja
