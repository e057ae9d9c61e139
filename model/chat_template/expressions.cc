// expressions.cc: the evaluator's other half.
#include "model/chat_template/evaluator.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/print.h"

namespace guildhall::jinja {
namespace {

// Of nested evaluation: the deepest expression in the deepest statement, through some calls of macros. A
// level takes well under 8 KiB of stack, also with sanitizers.
constexpr int kMaxEvaluationDepth = 600;

}  // namespace

Result<Value> Evaluator::eval(const Expr& expr) {
  ++depth_;
  Result<Value> value = eval_inner(expr);
  --depth_;
  if (!value && line_ == 0) line_ = expr.line;
  return value;
}

Result<Value> Evaluator::eval_inner(const Expr& expr) {
  GH_TRY(runtime_.spend(1));
  if (depth_ > kMaxEvaluationDepth) return failure("macros call each other too deeply");
  using Op = Expr::Op;
  switch (expr.op) {
    case Op::literal:
      return expr.literal;
    case Op::name:
      return eval_name(expr);
    case Op::list:
    case Op::tuple:
      return eval_items(expr);
    case Op::dict:
      return eval_dict(expr);
    case Op::attribute: {
      GH_ASSIGN(const Value subject, eval(*expr.parts[0]));
      return get_attribute(subject, expr.name);
    }
    case Op::item: {
      GH_ASSIGN(const Value subject, eval(*expr.parts[0]));
      GH_ASSIGN(const Value key, eval(*expr.parts[1]));
      return get_item(runtime_, subject, key);
    }
    case Op::slice:
      return eval_slice(expr);
    case Op::call:
      return eval_call(expr);
    case Op::filter:
      return eval_filter(expr);
    case Op::test:
      return eval_test(expr);
    case Op::negate:
    case Op::plus: {
      GH_ASSIGN(const Value value, eval(*expr.parts[0]));
      return expr.op == Op::negate ? negated(value) : arithmetic(runtime_, "+", Value{int64_t{0}}, value);
    }
    case Op::logical_not:
    case Op::logical_and:
    case Op::logical_or:
    case Op::conditional:
      return eval_logic(expr);
    case Op::arithmetic: {
      GH_ASSIGN(const Value left, eval(*expr.parts[0]));
      GH_ASSIGN(const Value right, eval(*expr.parts[1]));
      return arithmetic(runtime_, expr.name, left, right);
    }
    case Op::concat:
      return eval_concat(expr);
    case Op::compare:
      return eval_compare(expr);
  }
  return Value{None{}};
}

Result<Value> Evaluator::eval_name(const Expr& expr) {
  if (const Value* value = find_name(expr.name)) return *value;
  if (const FunctionEntry* function = find_function(expr.name)) return Value{Callable{.function = function}};
  return make_undefined(fmt::format("'{}' is undefined", expr.name));
}

Result<Value> Evaluator::eval_items(const Expr& expr) {
  std::vector<Value> items;
  for (const ExprPtr& part : expr.parts) {
    GH_ASSIGN(Value item, eval(*part));
    items.push_back(std::move(item));
  }
  return runtime_.sequence(std::move(items),
                           expr.op == Expr::Op::list ? Sequence::Kind::list : Sequence::Kind::tuple);
}

Result<Value> Evaluator::eval_dict(const Expr& expr) {
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i < expr.parts.size(); i += 2) {
    GH_ASSIGN(Value key, eval(*expr.parts[i]));
    GH_ASSIGN(Value value, eval(*expr.parts[i + 1]));
    if (!is_hashable(key)) return misuse(key, "a dict's key");
    if (!key.is<Text>()) GH_TRY(runtime_.spend(dict->entries().size()));
    dict->depth = std::max(dict->depth, nesting(value) + 1);
    dict->set(std::move(key), std::move(value));
  }
  GH_TRY(runtime_.check_depth(dict->depth));
  return Value{std::move(dict)};
}

Result<Value> Evaluator::eval_slice(const Expr& expr) {
  GH_ASSIGN(const Value subject, eval(*expr.parts[0]));
  SliceBounds bounds{{None{}}, {None{}}, {None{}}};
  Value* const places[] = {&bounds.start, &bounds.stop, &bounds.step};
  for (size_t i = 0; i < 3; ++i) {
    if (!expr.parts[i + 1]) continue;
    GH_ASSIGN(*places[i], eval(*expr.parts[i + 1]));
  }
  return get_slice(runtime_, subject, bounds);
}

// All but the first part, which is what is called or filtered.
Result<Args> Evaluator::eval_args(const Expr& expr) {
  Args args;
  for (size_t i = 1; i < expr.parts.size(); ++i) {
    GH_ASSIGN(Value value, eval(*expr.parts[i]));
    args.positional.push_back(std::move(value));
  }
  for (const Keyword& keyword : expr.keywords) {
    GH_ASSIGN(Value value, eval(*keyword.value));
    args.keywords.emplace_back(keyword.name, std::move(value));
  }
  return args;
}

Result<Value> Evaluator::eval_call(const Expr& expr) {
  GH_ASSIGN(const Value callee, eval(*expr.parts[0]));
  GH_ASSIGN(Args args, eval_args(expr));
  const Callable* callable = callee.as<Callable>();
  if (callable == nullptr) return misuse(callee, "a call");
  if (callable->macro) return call_macro(*callable->macro, std::move(args));
  if (callable->function) return callable->function->call(runtime_, args);
  return callable->method->call(runtime_, *callable->self, args);
}

Result<Value> Evaluator::eval_filter(const Expr& expr) {
  Value subject;
  if (expr.parts[0]) {
    GH_ASSIGN(subject, eval(*expr.parts[0]));
  } else {
    subject = *block_text_;
  }
  GH_ASSIGN(const Args args, eval_args(expr));
  return apply_filter(runtime_, expr.name, subject, args);
}

Result<Value> Evaluator::eval_test(const Expr& expr) {
  GH_ASSIGN(const Value subject, eval(*expr.parts[0]));
  GH_ASSIGN(const Args args, eval_args(expr));
  GH_ASSIGN(const bool holds, apply_test(runtime_, expr.name, subject, args));
  return Value{holds};
}

// Operands are evaluated only as far as they matter; `and` and `or` give the operand that decided.
Result<Value> Evaluator::eval_logic(const Expr& expr) {
  using Op = Expr::Op;
  if (expr.op == Op::conditional) {
    GH_ASSIGN(const Value condition, eval(*expr.parts[1]));
    if (truth(condition)) return eval(*expr.parts[0]);
    if (expr.parts.size() == 3) return eval(*expr.parts[2]);
    return make_undefined("the inline if has no else");
  }
  GH_ASSIGN(Value left, eval(*expr.parts[0]));
  if (expr.op == Op::logical_not) return Value{!truth(left)};
  if (truth(left) == (expr.op == Op::logical_or)) return left;
  return eval(*expr.parts[1]);
}

Result<Value> Evaluator::eval_concat(const Expr& expr) {
  TextOut out = runtime_.text_out();
  for (const ExprPtr& part : expr.parts) {
    GH_ASSIGN(const Value value, eval(*part));
    GH_TRY(print(value, out));
  }
  return runtime_.text(std::move(out));
}

Result<Value> Evaluator::eval_compare(const Expr& expr) {
  GH_ASSIGN(Value left, eval(*expr.parts[0]));
  for (size_t i = 0; i < expr.names.size(); ++i) {
    GH_ASSIGN(Value right, eval(*expr.parts[i + 1]));
    GH_ASSIGN(const bool holds, compare(runtime_, expr.names[i], left, right));
    if (!holds) return Value{false};
    left = std::move(right);
  }
  return Value{true};
}

}  // namespace guildhall::jinja
