#include "model/chat_template/jinja_template.h"

#include <fmt/format.h>

#include "model/chat_template/evaluator.h"
#include "model/chat_template/json_input.h"
#include "model/chat_template/lexer.h"
#include "model/chat_template/parser.h"
#include "model/tokenizer/utf8.h"

namespace guildhall::jinja {

struct JinjaTemplate::Impl {
  Body body;
  TemplateLimits limits;
};

JinjaTemplate::JinjaTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
JinjaTemplate::JinjaTemplate(JinjaTemplate&&) noexcept = default;
JinjaTemplate& JinjaTemplate::operator=(JinjaTemplate&&) noexcept = default;
JinjaTemplate::~JinjaTemplate() = default;

Result<JinjaTemplate> JinjaTemplate::parse(std::string_view source, const TemplateLimits& limits) {
  if (source.size() > limits.max_source_bytes)
    return failure(fmt::format("the chat template has {} bytes; it may have {}", source.size(),
                               limits.max_source_bytes));
  if (valid_utf8_length(source) != source.size()) return failure("the chat template is not valid UTF-8");
  GH_ASSIGN(Body body, parse_template_text(source, limits.max_depth));
  return JinjaTemplate(std::make_unique<const Impl>(Impl{std::move(body), limits}));
}

Result<std::string> JinjaTemplate::render(const boost::json::object& names,
                                          const TemplateClock& clock) const {
  Dict context;
  for (const auto& entry : names) {
    GH_ASSIGN(Value value, from_json(entry.value()));
    context.set(make_text(std::string(entry.key())), std::move(value));
  }
  Runtime runtime(impl_->limits, clock);
  Evaluator evaluator(runtime, context);
  Result<std::string> text = evaluator.run(impl_->body);
  if (text) return text;
  if (runtime.raised) return failure(*std::move(runtime.raised));
  return template_error(evaluator.line(), text.error().message);
}

}  // namespace guildhall::jinja
