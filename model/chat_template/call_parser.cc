// call_parser.cc: what may follow a value: attributes, items, slices, calls, filters and tests; and what may
// be assigned to.
#include <fmt/format.h>

#include <charconv>

#include "model/chat_template/builtins.h"
#include "model/chat_template/expression_parser.h"

namespace guildhall::jinja {

using Op = Expr::Op;

Result<ExprPtr> ExpressionParser::postfix(ExprPtr subject) {
  while (true) {
    if (now().is_op(".")) {
      GH_ASSIGN(subject, attribute(std::move(subject)));
    } else if (now().is_op("[")) {
      GH_ASSIGN(subject, subscript(std::move(subject)));
    } else if (now().is_op("(")) {
      GH_ASSIGN(subject, call(std::move(subject)));
    } else {
      return subject;
    }
  }
}

Result<ExprPtr> ExpressionParser::attribute(ExprPtr subject) {
  const int line = now().line;
  advance();
  if (now().kind == Token::Kind::integer) {
    std::unique_ptr<Expr> item = node(Op::item, line);
    add(*item, std::move(subject));
    GH_ASSIGN(ExprPtr index, number());
    add(*item, std::move(index));
    return finished(std::move(item));
  }
  std::unique_ptr<Expr> access = node(Op::attribute, line);
  GH_ASSIGN(access->name, identifier("a name after '.'"));
  add(*access, std::move(subject));
  return finished(std::move(access));
}

Result<ExprPtr> ExpressionParser::subscript(ExprPtr subject) {
  std::unique_ptr<Expr> item = node(Op::item, now().line);
  advance();
  add(*item, std::move(subject));
  const auto bound = [&]() -> Result<ExprPtr> {
    if (now().is_op(":") || now().is_op("]")) return ExprPtr();
    return expression();
  };
  ExprPtr first;
  if (!now().is_op(":")) {
    GH_ASSIGN(first, expression());
  }
  const bool is_slice = now().is_op(":");
  add(*item, std::move(first));
  if (is_slice) {
    item->op = Op::slice;
    for (int i = 0; i < 2; ++i) {
      ExprPtr next;
      if (skip_op(":")) {
        GH_ASSIGN(next, bound());
      }
      add(*item, std::move(next));
    }
  }
  GH_TRY(expect_op("]"));
  return finished(std::move(item));
}

Result<ExprPtr> ExpressionParser::call(ExprPtr subject) {
  std::unique_ptr<Expr> expr = node(Op::call, now().line);
  add(*expr, std::move(subject));
  GH_ASSIGN(Call args, call_args());
  add_call(*expr, std::move(args));
  return finished(std::move(expr));
}

Result<ExpressionParser::Call> ExpressionParser::call_args() {
  Call args;
  GH_TRY(expect_op("("));
  while (!now().is_op(")")) {
    if (now().is_op("*") || now().is_op("**"))
      return fail(fmt::format("a call with {}arguments is not supported; name each one", now().text));
    if (now().kind == Token::Kind::name && ahead().is_op("=")) {
      Keyword keyword{now().text, nullptr};
      advance();
      advance();
      GH_ASSIGN(keyword.value, expression());
      args.keywords.push_back(std::move(keyword));
    } else {
      if (!args.keywords.empty()) return fail("an argument without a name follows one with a name");
      GH_ASSIGN(ExprPtr value, expression());
      args.positional.push_back(std::move(value));
    }
    if (!skip_op(",")) break;
  }
  GH_TRY(expect_op(")"));
  return args;
}

// Names of filters and tests may have dots in Jinja. None of ours has, but only who uses one is told so.
Result<std::string> ExpressionParser::dotted_name(std::string_view what) {
  GH_ASSIGN(std::string name, identifier(what));
  while (skip_op(".")) {
    GH_ASSIGN(const std::string more, identifier(what));
    name += "." + more;
  }
  return name;
}

void ExpressionParser::note_unknown(int line, std::string_view kind, std::string_view name) {
  if (!may_be_unknown_ && !unknown_)
    unknown_ = template_error(line, fmt::format("there is no {} named {}", kind, name));
}

Result<ExprPtr> ExpressionParser::filters(ExprPtr subject) {
  while (skip_op("|")) {
    std::unique_ptr<Expr> filter = node(Op::filter, now().line);
    GH_ASSIGN(filter->name, dotted_name("a filter's name"));
    if (find_filter(filter->name) == nullptr) note_unknown(filter->line, "filter", filter->name);
    add(*filter, std::move(subject));
    if (now().is_op("(")) {
      GH_ASSIGN(Call args, call_args());
      add_call(*filter, std::move(args));
    }
    GH_ASSIGN(subject, finished(std::move(filter)));
  }
  return subject;
}

Result<ExprPtr> ExpressionParser::test(ExprPtr subject) {
  std::unique_ptr<Expr> check = node(Op::test, now().line);
  advance();
  const bool negated = skip_name("not");
  GH_ASSIGN(check->name, dotted_name("a test's name after 'is'"));
  if (find_test(check->name) == nullptr) note_unknown(check->line, "test", check->name);
  add(*check, std::move(subject));
  const Token::Kind kind = now().kind;
  const bool is_value = kind == Token::Kind::string || kind == Token::Kind::integer ||
                        kind == Token::Kind::real ||
                        (kind == Token::Kind::name && !now().is_name("else") && !now().is_name("or") &&
                         !now().is_name("and")) ||
                        now().is_op("[") || now().is_op("{");
  if (now().is_op("(")) {
    GH_ASSIGN(Call args, call_args());
    add_call(*check, std::move(args));
  } else if (is_value) {
    if (now().is_name("is")) return fail("tests with 'is' cannot be chained; join them with 'and'");
    GH_ASSIGN(ExprPtr argument, primary());
    GH_ASSIGN(argument, postfix(std::move(argument)));
    add(*check, std::move(argument));
  }
  if (!negated) return finished(std::move(check));
  std::unique_ptr<Expr> opposite = node(Op::logical_not, check->line);
  add(*opposite, std::move(check));
  return finished(std::move(opposite));
}

Result<Target> ExpressionParser::target(bool with_attributes, std::string_view end_name) {
  const Deeper deeper(depth_);
  if (is_too_deep()) return too_deep();
  Target all;
  bool has_comma = false;
  while (!now().is_op("=") && !now().is_op(")") && now().kind != Token::Kind::block_end &&
         !(!end_name.empty() && now().is_name(end_name))) {
    Target one;
    if (skip_op("(")) {
      GH_ASSIGN(one, target(with_attributes, end_name));
      GH_TRY(expect_op(")"));
    } else {
      GH_ASSIGN(one.name, identifier("a name to assign to"));
      for (const std::string_view word : {"true", "True", "false", "False", "none", "None"})
        if (one.name == word) return fail(fmt::format("cannot assign to {}", word));
      if (with_attributes && skip_op(".")) {
        GH_ASSIGN(one.attribute, identifier("an attribute to assign to"));
      }
    }
    all.parts.push_back(std::move(one));
    if (!skip_op(",")) break;
    has_comma = true;
  }
  if (all.parts.empty()) return unexpected("a name to assign to");
  if (all.parts.size() == 1 && !has_comma) return Target(std::move(all.parts[0]));
  return all;
}

}  // namespace guildhall::jinja
