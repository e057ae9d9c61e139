#include "model/chat_template/expression_parser.h"

#include <fmt/format.h>

#include <charconv>

namespace guildhall::jinja {

using Op = Expr::Op;

bool ExpressionParser::skip_op(std::string_view op) {
  if (!now().is_op(op)) return false;
  advance();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!now().is_name(name)) return false;
  advance();
  return true;
}

Result<void> ExpressionParser::expect_op(std::string_view op) {
  if (!skip_op(op)) return unexpected(fmt::format("'{}'", op));
  return {};
}

Status ExpressionParser::unexpected(std::string_view wanted) const {
  std::string found;
  switch (now().kind) {
    case Token::Kind::end:
      found = "the end of the template";
      break;
    case Token::Kind::variable_end:
    case Token::Kind::block_end:
      found = "the end of the tag";
      break;
    case Token::Kind::string:
      found = "a string";
      break;
    default:
      found = fmt::format("'{}'", now().text);
  }
  return fail(fmt::format("expected {}, found {}", wanted, found));
}

Status ExpressionParser::too_deep() const {
  return fail(fmt::format("nests deeper than {} levels, the limit", max_depth_));
}

Result<std::string> ExpressionParser::identifier(std::string_view what) {
  if (now().kind != Token::Kind::name) return unexpected(what);
  std::string name = now().text;
  advance();
  return name;
}

std::unique_ptr<Expr> ExpressionParser::node(Op op, int line) const {
  auto expr = std::make_unique<Expr>();
  expr->op = op;
  expr->line = line;
  return expr;
}

void ExpressionParser::add(Expr& expr, ExprPtr part) {
  if (part) expr.depth = std::max(expr.depth, part->depth + 1);
  expr.parts.push_back(std::move(part));
}

void ExpressionParser::add_call(Expr& expr, Call call) {
  for (ExprPtr& part : call.positional) add(expr, std::move(part));
  for (Keyword& keyword : call.keywords) {
    expr.depth = std::max(expr.depth, keyword.value->depth + 1);
    expr.keywords.push_back(std::move(keyword));
  }
}

Result<ExprPtr> ExpressionParser::finished(std::unique_ptr<Expr> expr) const {
  if (expr->depth > max_depth_) return too_deep();
  return ExprPtr(std::move(expr));
}

Result<ExprPtr> ExpressionParser::tuple(const TupleRule& rule) {
  const int line = now().line;
  const auto at_end = [&] {
    return now().kind == Token::Kind::variable_end || now().kind == Token::Kind::block_end ||
           now().is_op(")") || (!rule.end_name.empty() && now().is_name(rule.end_name));
  };
  std::unique_ptr<Expr> items = node(Op::tuple, line);
  bool has_comma = false;
  while (!at_end()) {
    GH_ASSIGN(ExprPtr item, rule.conditionals ? expression() : disjunction());
    add(*items, std::move(item));
    if (!now().is_op(",")) break;
    has_comma = true;
    advance();
  }
  if (has_comma || (items->parts.empty() && rule.may_be_empty)) return finished(std::move(items));
  if (items->parts.empty()) return unexpected("an expression");
  return std::move(items->parts[0]);
}

Result<ExprPtr> ExpressionParser::expression() {
  const Deeper deeper(depth_);
  if (is_too_deep()) return too_deep();
  int line = now().line;
  const std::optional<Status> unknown_before = unknown_;
  GH_ASSIGN(ExprPtr value, disjunction());
  bool is_conditional = false;
  while (skip_name("if")) {
    is_conditional = true;
    std::unique_ptr<Expr> choice = node(Op::conditional, line);
    add(*choice, std::move(value));
    GH_ASSIGN(ExprPtr condition, disjunction());
    add(*choice, std::move(condition));
    if (skip_name("else")) {
      GH_ASSIGN(ExprPtr otherwise, expression());
      add(*choice, std::move(otherwise));
    }
    GH_ASSIGN(value, finished(std::move(choice)));
    line = now().line;
  }
  if (is_conditional) unknown_ = unknown_before;
  return value;
}

Result<ExprPtr> ExpressionParser::disjunction() {
  GH_ASSIGN(ExprPtr left, conjunction());
  while (now().is_name("or")) {
    std::unique_ptr<Expr> both = node(Op::logical_or, now().line);
    advance();
    add(*both, std::move(left));
    GH_ASSIGN(ExprPtr right, conjunction());
    add(*both, std::move(right));
    GH_ASSIGN(left, finished(std::move(both)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::conjunction() {
  GH_ASSIGN(ExprPtr left, negation());
  while (now().is_name("and")) {
    std::unique_ptr<Expr> both = node(Op::logical_and, now().line);
    advance();
    add(*both, std::move(left));
    GH_ASSIGN(ExprPtr right, negation());
    add(*both, std::move(right));
    GH_ASSIGN(left, finished(std::move(both)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::negation() {
  if (!now().is_name("not")) return comparison();
  const Deeper deeper(depth_);
  if (is_too_deep()) return too_deep();
  std::unique_ptr<Expr> opposite = node(Op::logical_not, now().line);
  advance();
  GH_ASSIGN(ExprPtr value, negation());
  add(*opposite, std::move(value));
  return finished(std::move(opposite));
}

Result<std::optional<std::string>> ExpressionParser::comparison_operator() {
  for (const std::string_view op : {"==", "!=", "<=", ">=", "<", ">"})
    if (skip_op(op)) return std::optional<std::string>(op);
  if (skip_name("in")) return std::optional<std::string>("in");
  if (now().is_name("not") && ahead().is_name("in")) {
    advance();
    advance();
    return std::optional<std::string>("not in");
  }
  return std::optional<std::string>();
}

Result<ExprPtr> ExpressionParser::comparison() {
  std::unique_ptr<Expr> chain = node(Op::compare, now().line);
  GH_ASSIGN(ExprPtr first, sum());
  add(*chain, std::move(first));
  while (true) {
    GH_ASSIGN(std::optional<std::string> op, comparison_operator());
    if (!op) break;
    chain->names.push_back(*std::move(op));
    GH_ASSIGN(ExprPtr next, sum());
    add(*chain, std::move(next));
  }
  if (chain->names.empty()) return std::move(chain->parts[0]);
  return finished(std::move(chain));
}

Result<ExprPtr> ExpressionParser::left_to_right(Rule operand,
                                                std::initializer_list<std::string_view> operators) {
  GH_ASSIGN(ExprPtr left, (this->*operand)());
  while (true) {
    const std::string op = now().kind == Token::Kind::op ? now().text : "";
    if (std::find(operators.begin(), operators.end(), op) == operators.end()) return left;
    std::unique_ptr<Expr> both = node(Op::arithmetic, now().line);
    both->name = op;
    advance();
    add(*both, std::move(left));
    GH_ASSIGN(ExprPtr right, (this->*operand)());
    add(*both, std::move(right));
    GH_ASSIGN(left, finished(std::move(both)));
  }
}

Result<ExprPtr> ExpressionParser::sum() {
  return left_to_right(&ExpressionParser::concatenation, {"+", "-"});
}

Result<ExprPtr> ExpressionParser::concatenation() {
  std::unique_ptr<Expr> joined = node(Op::concat, now().line);
  do {
    GH_ASSIGN(ExprPtr part, product());
    add(*joined, std::move(part));
  } while (skip_op("~"));
  if (joined->parts.size() == 1) return std::move(joined->parts[0]);
  return finished(std::move(joined));
}

Result<ExprPtr> ExpressionParser::product() {
  return left_to_right(&ExpressionParser::power, {"*", "/", "//", "%"});
}

// From left to right, as Jinja has it.
Result<ExprPtr> ExpressionParser::power() { return left_to_right(&ExpressionParser::filtered_unary, {"**"}); }

Result<ExprPtr> ExpressionParser::unary(bool with_filters) {
  const Deeper deeper(depth_);
  if (is_too_deep()) return too_deep();
  ExprPtr value;
  if (now().is_op("-") || now().is_op("+")) {
    std::unique_ptr<Expr> sign = node(now().is_op("-") ? Op::negate : Op::plus, now().line);
    advance();
    GH_ASSIGN(ExprPtr operand, unary(false));
    add(*sign, std::move(operand));
    GH_ASSIGN(value, finished(std::move(sign)));
  } else {
    GH_ASSIGN(value, primary());
  }
  GH_ASSIGN(value, postfix(std::move(value)));
  while (with_filters) {
    if (now().is_op("|")) {
      GH_ASSIGN(value, filters(std::move(value)));
    } else if (now().is_name("is")) {
      GH_ASSIGN(value, test(std::move(value)));
    } else if (now().is_op("(")) {
      GH_ASSIGN(value, call(std::move(value)));
    } else {
      break;
    }
  }
  return value;
}

Result<ExprPtr> ExpressionParser::primary() {
  switch (now().kind) {
    case Token::Kind::name:
      return name_or_constant();
    case Token::Kind::string:
      return text();
    case Token::Kind::integer:
    case Token::Kind::real:
      return number();
    default:
      break;
  }
  if (now().is_op("[")) return list();
  if (now().is_op("{")) return dict();
  if (!skip_op("(")) return unexpected("an expression");
  GH_ASSIGN(ExprPtr inner, tuple({.may_be_empty = true}));
  GH_TRY(expect_op(")"));
  return inner;
}

Result<ExprPtr> ExpressionParser::name_or_constant() {
  std::unique_ptr<Expr> expr = node(Op::literal, now().line);
  const std::string& name = now().text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    expr->literal.data = name[0] == 't' || name[0] == 'T';
  } else if (name == "none" || name == "None") {
    expr->literal.data = None{};
  } else {
    expr->op = Op::name;
    expr->name = name;
    names_read_.insert(name);
  }
  advance();
  return finished(std::move(expr));
}

Result<ExprPtr> ExpressionParser::text() {
  std::unique_ptr<Expr> expr = node(Op::literal, now().line);
  std::string bytes;
  for (; now().kind == Token::Kind::string; advance()) bytes += now().text;
  expr->literal = make_text(std::move(bytes));
  return finished(std::move(expr));
}

Result<ExprPtr> ExpressionParser::number() {
  std::unique_ptr<Expr> expr = node(Op::literal, now().line);
  const std::string& digits = now().text;
  if (now().kind == Token::Kind::real) {
    double real = 0;
    const std::from_chars_result end = std::from_chars(digits.data(), digits.data() + digits.size(), real);
    if (end.ec != std::errc()) return fail(fmt::format("the number {} does not fit", digits));
    expr->literal.data = real;
  } else {
    const char kind = digits.size() > 1 ? static_cast<char>(digits[1] | 0x20) : '\0';
    const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    int64_t integer = 0;
    const std::from_chars_result end =
        std::from_chars(digits.data() + (base == 10 ? 0 : 2), digits.data() + digits.size(), integer, base);
    if (end.ec != std::errc()) return fail(fmt::format("the number {} does not fit 64 bits", digits));
    expr->literal.data = integer;
  }
  advance();
  return finished(std::move(expr));
}

Result<ExprPtr> ExpressionParser::list() {
  std::unique_ptr<Expr> items = node(Op::list, now().line);
  advance();
  while (!now().is_op("]")) {
    GH_ASSIGN(ExprPtr item, expression());
    add(*items, std::move(item));
    if (!skip_op(",")) break;
  }
  GH_TRY(expect_op("]"));
  return finished(std::move(items));
}

Result<ExprPtr> ExpressionParser::dict() {
  std::unique_ptr<Expr> entries = node(Op::dict, now().line);
  advance();
  while (!now().is_op("}")) {
    GH_ASSIGN(ExprPtr key, expression());
    add(*entries, std::move(key));
    GH_TRY(expect_op(":"));
    GH_ASSIGN(ExprPtr value, expression());
    add(*entries, std::move(value));
    if (!skip_op(",")) break;
  }
  GH_TRY(expect_op("}"));
  return finished(std::move(entries));
}

}  // namespace guildhall::jinja
