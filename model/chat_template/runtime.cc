#include "model/chat_template/runtime.h"

#include <algorithm>

namespace guildhall::jinja {

Runtime::~Runtime() {
  for (const SequencePtr& list : kept_lists_) list->items.clear();
  for (const NamespacePtr& attributes : kept_namespaces_) attributes->attributes.clear();
}

Result<void> Runtime::spend(size_t steps) {
  if (steps > limits.max_steps - steps_) {
    steps_ = limits.max_steps;
    return failure(fmt::format("takes more than {} steps, the limit", limits.max_steps));
  }
  steps_ += steps;
  return {};
}

Result<Value> Runtime::text(TextOut out, bool markup) {
  if (out.full())
    return failure(fmt::format("makes a text of more than {} bytes, the limit", limits.max_text_bytes));
  return text(out.take(), markup);
}

Result<Value> Runtime::text(std::string bytes, bool markup) {
  if (bytes.size() > limits.max_text_bytes)
    return failure(fmt::format("makes a text of more than {} bytes, the limit", limits.max_text_bytes));
  GH_TRY(spend(bytes.size() / 16));
  return make_text(std::move(bytes), markup);
}

Result<Value> Runtime::sequence(std::vector<Value> items, Sequence::Kind kind) {
  GH_TRY(spend(items.size()));
  auto sequence = std::make_shared<Sequence>();
  sequence->kind = kind;
  for (const Value& item : items) sequence->depth = std::max(sequence->depth, nesting(item) + 1);
  GH_TRY(check_depth(sequence->depth));
  sequence->items = std::move(items);
  return Value{std::move(sequence)};
}

Result<void> Runtime::check_depth(int depth) const {
  if (depth > kMaxValueDepth)
    return failure(fmt::format("nests values deeper than {} levels, the limit", kMaxValueDepth));
  return {};
}

void Runtime::keep(const SequencePtr& list) {
  if (!std::exchange(list->kept, true)) kept_lists_.push_back(list);
}

Result<std::vector<std::optional<Value>>> bind_args(std::string_view callee, const Args& args,
                                                    std::initializer_list<std::string_view> names,
                                                    size_t num_required) {
  if (args.positional.size() > names.size())
    return failure(fmt::format("{} takes at most {} arguments, {} were given", callee, names.size(),
                               args.positional.size()));
  std::vector<std::optional<Value>> bound(args.positional.begin(), args.positional.end());
  bound.resize(names.size());
  for (const auto& [name, value] : args.keywords) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) return failure(fmt::format("{} has no argument named {}", callee, name));
    std::optional<Value>& slot = bound[static_cast<size_t>(at - names.begin())];
    if (slot) return failure(fmt::format("{} was given {} twice", callee, name));
    slot = value;
  }
  for (size_t i = 0; i < num_required; ++i)
    if (!bound[i]) return failure(fmt::format("{} needs its argument {}", callee, *(names.begin() + i)));
  return bound;
}

Status misuse(const Value& value, std::string_view doing) {
  if (const Undefined* undefined = value.as<Undefined>()) return failure(what_is_missing(*undefined));
  return failure(fmt::format("{} does not work with a value of type {}", doing, type_name(value)));
}

}  // namespace guildhall::jinja
