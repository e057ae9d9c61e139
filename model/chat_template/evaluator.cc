// evaluator.cc: statements and names; expressions are in expressions.cc.
#include "model/chat_template/evaluator.h"

#include "model/chat_template/operators.h"
#include "model/chat_template/print.h"

namespace guildhall::jinja {

Result<std::string> Evaluator::run(const Body& body) {
  TextOut out = runtime_.text_out();
  out_ = &out;
  enter(nullptr);
  GH_TRY(run_body(body));
  return out.take();
}

Result<void> Evaluator::write(std::string_view text) {
  GH_TRY(runtime_.spend(text.size() / 16));
  out_->add(text);
  if (out_->full())
    return failure(
        fmt::format("makes a text of more than {} bytes, the limit", runtime_.limits.max_text_bytes));
  return {};
}

Result<Evaluator::Flow> Evaluator::run_body(const Body& body) {
  for (const auto& stmt : body) {
    GH_ASSIGN(const Flow flow, run_stmt(*stmt));
    if (flow != Flow::on) return flow;
  }
  return Flow::on;
}

Result<Evaluator::Flow> Evaluator::run_stmt(const Stmt& stmt) {
  ++depth_;
  Result<Flow> flow = run_stmt_inner(stmt);
  --depth_;
  if (!flow && line_ == 0) line_ = stmt.line;
  return flow;
}

Result<Evaluator::Flow> Evaluator::run_stmt_inner(const Stmt& stmt) {
  GH_TRY(runtime_.spend(1));
  switch (stmt.op) {
    case Stmt::Op::data:
      GH_TRY(write(stmt.text));
      return Flow::on;
    case Stmt::Op::print: {
      GH_ASSIGN(const Value value, eval(*stmt.expr));
      GH_ASSIGN(const Value text, to_text(runtime_, value));
      GH_TRY(write(text.as<Text>()->view()));
      return Flow::on;
    }
    case Stmt::Op::branch: {
      GH_ASSIGN(const Value condition, eval(*stmt.expr));
      return run_body(truth(condition) ? stmt.body : stmt.other);
    }
    case Stmt::Op::loop:
      return run_loop(stmt);
    case Stmt::Op::set: {
      GH_ASSIGN(const Value value, eval(*stmt.expr));
      GH_TRY(assign(stmt.target, value));
      return Flow::on;
    }
    case Stmt::Op::set_block:
      GH_TRY(set_block(stmt));
      return Flow::on;
    case Stmt::Op::macro:
      ++num_macros_;
      define(stmt.text, Value{Callable{.macro = std::make_shared<const Macro>(Macro{&stmt, scope_})}});
      return Flow::on;
    case Stmt::Op::scope:
      return run_in_scope(stmt.body);
    case Stmt::Op::leave:
      return Flow::leave;
    case Stmt::Op::next:
      return Flow::next;
  }
  return Flow::on;
}

void Evaluator::enter(Scope* parent) {
  scopes_.push_back({parent, {}});
  scope_ = &scopes_.back();
}

// Scopes end in the reverse order of their beginning. Where a macro was defined meanwhile, inside or further
// in, all that it may see stays until the render ends.
void Evaluator::leave(Scope* outer, size_t num_macros) {
  if (num_macros == num_macros_) scopes_.pop_back();
  scope_ = outer;
}

Result<Evaluator::Flow> Evaluator::run_in_scope(const Body& body) {
  Scope* const outer = scope_;
  const size_t num_macros = num_macros_;
  enter(outer);
  GH_ASSIGN(const Flow flow, run_body(body));
  leave(outer, num_macros);
  return flow;
}

// What a for walks over: all items, or those for which its condition holds.
Result<std::vector<Value>> Evaluator::loop_items(const Stmt& stmt) {
  GH_ASSIGN(const Value all, eval(*stmt.expr));
  GH_ASSIGN(std::vector<Value> items, iterate(runtime_, all));
  if (!stmt.condition) return items;
  Scope* const outer = scope_;
  const size_t num_macros = num_macros_;
  std::vector<Value> kept;
  for (Value& item : items) {
    enter(outer);
    GH_TRY(assign(stmt.target, item));
    GH_ASSIGN(const Value condition, eval(*stmt.condition));
    leave(outer, num_macros);
    if (truth(condition)) kept.push_back(std::move(item));
  }
  return kept;
}

Result<Evaluator::Flow> Evaluator::run_loop(const Stmt& stmt) {
  GH_ASSIGN(std::vector<Value> items, loop_items(stmt));
  bool completed = false;  // any round; else, like Jinja's, also follows rounds that were all broken off
  auto loop = std::make_shared<Loop>();
  loop->items = std::move(items);
  Scope* const outer = scope_;
  for (; loop->index0 < loop->items.size(); ++loop->index0) {
    const size_t num_macros = num_macros_;
    enter(outer);
    define("loop", Value{loop});
    GH_TRY(assign(stmt.target, loop->items[loop->index0]));
    GH_ASSIGN(const Flow flow, run_body(stmt.body));
    leave(outer, num_macros);
    completed = completed || flow == Flow::on;
    if (flow == Flow::leave) break;
  }
  return completed ? Flow::on : run_in_scope(stmt.other);
}

Result<Value> Evaluator::captured(const Body& body) {
  TextOut out = runtime_.text_out();
  TextOut* const outer = std::exchange(out_, &out);
  const Result<Flow> flow = run_body(body);
  out_ = outer;
  GH_TRY(flow);
  return runtime_.text(std::move(out));
}

Result<void> Evaluator::set_block(const Stmt& stmt) {
  Scope* const outer = scope_;
  const size_t num_macros = num_macros_;
  enter(outer);
  GH_ASSIGN(Value text, captured(stmt.body));
  leave(outer, num_macros);
  if (stmt.expr) {
    const Value* const before = std::exchange(block_text_, &text);
    Result<Value> filtered = eval(*stmt.expr);
    block_text_ = before;
    GH_ASSIGN(text, std::move(filtered));
  }
  return assign(stmt.target, text);
}

Result<void> Evaluator::assign(const Target& target, const Value& value) {
  if (target.parts.empty() && target.attribute.empty()) {
    define(target.name, value);
    return {};
  }
  if (target.parts.empty()) {
    const Value* const found = find_name(target.name);
    const NamespacePtr* attributes = found != nullptr ? found->as<NamespacePtr>() : nullptr;
    if (attributes == nullptr)
      return failure(fmt::format("{}.{} cannot be set: only a namespace has attributes to set", target.name,
                                 target.attribute));
    if (target.attribute.starts_with('_'))
      return failure(fmt::format("a namespace has no attribute {}: none begins with _", target.attribute));
    for (auto& [name, old] : (*attributes)->attributes) {
      if (name != target.attribute) continue;
      old = Value(value);
      return {};
    }
    (*attributes)->attributes.emplace_back(target.attribute, value);
    return {};
  }
  GH_ASSIGN(const std::vector<Value> items, iterate(runtime_, value));
  if (items.size() != target.parts.size())
    return failure(fmt::format("{} values cannot go to {} names", items.size(), target.parts.size()));
  for (size_t i = 0; i < items.size(); ++i) GH_TRY(assign(target.parts[i], items[i]));
  return {};
}

void Evaluator::define(std::string_view name, Value value) {
  for (auto& [known, old] : scope_->names) {
    if (known != name) continue;
    old = std::move(value);
    return;
  }
  scope_->names.emplace_back(name, std::move(value));
}

const Value* Evaluator::find_name(std::string_view name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent)
    for (const auto& [known, value] : scope->names)
      if (known == name) return &value;
  return context_.find(name);
}

Result<void> Evaluator::bind_parameters(const Stmt& stmt, Args& args) {
  const size_t num_parameters = stmt.parameters.size();
  const size_t num_given = std::min(args.positional.size(), num_parameters);
  for (size_t i = 0; i < num_parameters; ++i) {
    const Parameter& parameter = stmt.parameters[i];
    if (i < num_given) {
      define(parameter.name, args.positional[i]);
      continue;
    }
    const auto named = std::find_if(args.keywords.begin(), args.keywords.end(),
                                    [&](const auto& keyword) { return keyword.first == parameter.name; });
    Value value = make_undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    if (named != args.keywords.end()) {
      value = std::move(named->second);
      args.keywords.erase(named);
    } else if (parameter.default_value) {
      GH_ASSIGN(value, eval(*parameter.default_value));
    }
    define(parameter.name, std::move(value));
  }
  if (stmt.takes_more_keywords) {
    auto rest = std::make_shared<Dict>();
    for (auto& [name, value] : args.keywords) {
      rest->depth = std::max(rest->depth, nesting(value) + 1);
      rest->set(make_text(name), std::move(value));
    }
    GH_TRY(runtime_.check_depth(rest->depth));
    define("kwargs", Value{std::move(rest)});
  } else if (!args.keywords.empty()) {
    return failure(
        fmt::format("macro {} has no place for the argument {}", stmt.text, args.keywords[0].first));
  }
  std::vector<Value> rest(args.positional.begin() + static_cast<std::ptrdiff_t>(num_given),
                          args.positional.end());
  if (!stmt.takes_more_args && !rest.empty())
    return failure(fmt::format("macro {} takes at most {} arguments, {} were given", stmt.text,
                               num_parameters, args.positional.size()));
  if (stmt.takes_more_args) {
    GH_ASSIGN(Value more, runtime_.sequence(std::move(rest), Sequence::Kind::tuple));
    define("varargs", std::move(more));
  }
  return {};
}

Result<Value> Evaluator::call_macro(const Macro& macro, Args args) {
  Scope* const outer = scope_;
  const size_t num_macros = num_macros_;
  enter(macro.scope);
  GH_TRY(bind_parameters(*macro.stmt, args));
  GH_ASSIGN(Value text, captured(macro.stmt->body));
  leave(outer, num_macros);
  return text;
}

}  // namespace guildhall::jinja
