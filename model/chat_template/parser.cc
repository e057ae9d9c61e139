#include "model/chat_template/parser.h"

#include <fmt/format.h>

#include "model/chat_template/expression_parser.h"

namespace guildhall::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Result<Body> run() {
    GH_ASSIGN(Body body, statements({}));
    if (unknown_) return *std::move(unknown_);
    return body;
  }

 private:
  using Names = std::initializer_list<std::string_view>;
  using StmtPtr = std::unique_ptr<const Stmt>;

  // A value that holds while this lives.
  template <class T>
  class Restored {
   public:
    Restored(T& place, T now) : place_(place), before_(std::exchange(place, std::move(now))) {}
    ~Restored() { place_ = std::move(before_); }
    Restored(const Restored&) = delete;

   private:
    T& place_;
    T before_;
  };

  static std::unique_ptr<Stmt> node(Stmt::Op op, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->op = op;
    stmt->line = line;
    return stmt;
  }

  // Up to a tag whose first name is one of `ends`, which is left to be read; without ends, up to the end.
  Result<Body> statements(Names ends) {
    const Deeper deeper(depth_);
    if (is_too_deep()) return too_deep();
    Body body;
    while (now().kind != Token::Kind::end) {
      if (now().kind == Token::Kind::data) {
        std::unique_ptr<Stmt> data = node(Stmt::Op::data, now().line);
        data->text = now().text;
        body.push_back(std::move(data));
        advance();
      } else if (now().kind == Token::Kind::variable_begin) {
        GH_ASSIGN(StmtPtr print, print_statement());
        body.push_back(std::move(print));
      } else {
        advance();
        if (std::find(ends.begin(), ends.end(), now().text) != ends.end() && now().kind == Token::Kind::name)
          return body;
        GH_ASSIGN(StmtPtr stmt, statement());
        GH_TRY(block_end());
        body.push_back(std::move(stmt));
      }
    }
    if (ends.size() > 0) return fail(fmt::format("the template ends before {{% {} %}}", *(ends.end() - 1)));
    return body;
  }

  Result<void> block_end() {
    if (now().kind != Token::Kind::block_end) return unexpected("the end of the tag");
    advance();
    return {};
  }

  // After a tag's head: the body, then the closing name, whose tag the caller ends.
  Result<Body> body_until(std::string_view end) {
    GH_TRY(block_end());
    GH_ASSIGN(Body body, statements({end}));
    advance();
    return body;
  }

  Result<StmtPtr> print_statement() {
    std::unique_ptr<Stmt> stmt = node(Stmt::Op::print, now().line);
    advance();
    GH_ASSIGN(stmt->expr, tuple({}));
    if (now().kind != Token::Kind::variable_end) return unexpected("}}");
    advance();
    return StmtPtr(std::move(stmt));
  }

  Result<StmtPtr> statement() {
    const int line = now().line;
    GH_ASSIGN(const std::string name, identifier("a statement"));
    if (name == "if") return branch(line);
    if (name == "for") return loop(line);
    if (name == "set") return set(line);
    if (name == "macro") return macro(line);
    if (name == "break" || name == "continue") return leave(name, line);
    if (name == "generation") {
      // What transformers marks as the assistant's own words; they print as they are.
      std::unique_ptr<Stmt> stmt = node(Stmt::Op::scope, line);
      const Restored<bool> outer(may_be_unknown_, false);
      GH_ASSIGN(stmt->body, body_until("endgeneration"));
      return StmtPtr(std::move(stmt));
    }
    return template_error(
        line, fmt::format("{{% {} %}} is not supported; there are if, for, set, macro, break, continue, raw",
                          name));
  }

  Result<StmtPtr> branch(int line) {
    std::unique_ptr<Stmt> stmt = node(Stmt::Op::branch, line);
    const Restored<bool> outer(may_be_unknown_, true);
    GH_ASSIGN(stmt->expr, tuple({.conditionals = false}));
    GH_TRY(block_end());
    GH_ASSIGN(stmt->body, statements({"elif", "else", "endif"}));
    if (now().is_name("elif")) {
      const int elif_line = now().line;
      advance();
      const Deeper deeper(depth_);  // a chain of these is a nest to whoever walks it
      GH_ASSIGN(StmtPtr next, branch(elif_line));
      stmt->other.push_back(std::move(next));
      return StmtPtr(std::move(stmt));
    }
    const bool has_else = now().is_name("else");
    advance();
    if (has_else) {
      GH_ASSIGN(stmt->other, body_until("endif"));
    }
    return StmtPtr(std::move(stmt));
  }

  Result<StmtPtr> loop(int line) {
    std::unique_ptr<Stmt> stmt = node(Stmt::Op::loop, line);
    GH_ASSIGN(stmt->target, target(/*with_attributes=*/false, "in"));
    if (!skip_name("in")) return unexpected("'in'");
    GH_ASSIGN(stmt->expr, tuple({.conditionals = false, .end_name = "recursive"}));
    const Restored<bool> outer(may_be_unknown_, false);
    if (skip_name("if")) {
      GH_ASSIGN(stmt->condition, expression());
    }
    if (now().is_name("recursive"))
      return fail("a recursive for is not supported; write a macro that calls itself");
    GH_TRY(block_end());
    ++num_loops_;
    GH_ASSIGN(stmt->body, statements({"else", "endfor"}));
    --num_loops_;
    const bool has_else = now().is_name("else");
    advance();
    if (has_else) {
      GH_ASSIGN(stmt->other, body_until("endfor"));
    }
    return StmtPtr(std::move(stmt));
  }

  Result<StmtPtr> set(int line) {
    std::unique_ptr<Stmt> stmt = node(Stmt::Op::set, line);
    GH_ASSIGN(stmt->target, target(/*with_attributes=*/true, ""));
    if (skip_op("=")) {
      GH_ASSIGN(stmt->expr, tuple({}));
      return StmtPtr(std::move(stmt));
    }
    stmt->op = Stmt::Op::set_block;
    GH_ASSIGN(stmt->expr, filters(nullptr));
    const Restored<bool> outer(may_be_unknown_, false);
    GH_ASSIGN(stmt->body, body_until("endset"));
    return StmtPtr(std::move(stmt));
  }

  Result<StmtPtr> macro(int line) {
    std::unique_ptr<Stmt> stmt = node(Stmt::Op::macro, line);
    GH_ASSIGN(stmt->text, identifier("the macro's name"));
    const auto outer_names = std::exchange(names_read_, {});
    const Restored<int> outer_loops(num_loops_, 0);
    const Restored<bool> outer(may_be_unknown_, false);
    GH_TRY(expect_op("("));
    while (!now().is_op(")")) {
      Parameter parameter;
      GH_ASSIGN(parameter.name, identifier("a parameter's name"));
      if (skip_op("=")) {
        GH_ASSIGN(parameter.default_value, expression());
      } else if (!stmt->parameters.empty() && stmt->parameters.back().default_value) {
        return fail(fmt::format("parameter {} without a default follows one with a default", parameter.name));
      }
      stmt->parameters.push_back(std::move(parameter));
      if (!skip_op(",")) break;
    }
    GH_TRY(expect_op(")"));
    GH_ASSIGN(stmt->body, body_until("endmacro"));
    stmt->takes_more_args = names_read_.contains("varargs");
    stmt->takes_more_keywords = names_read_.contains("kwargs");
    names_read_.insert(outer_names.begin(), outer_names.end());
    return StmtPtr(std::move(stmt));
  }

  Result<StmtPtr> leave(const std::string& name, int line) {
    if (num_loops_ == 0) return template_error(line, fmt::format("{{% {} %}} stands outside a for", name));
    return StmtPtr(node(name == "break" ? Stmt::Op::leave : Stmt::Op::next, line));
  }

  int num_loops_ = 0;  // around what is read, inside the same macro
};

}  // namespace

Result<Body> parse_template_text(std::string_view source, int max_depth) {
  GH_ASSIGN(std::vector<Token> tokens, tokenize_template(source));
  return Parser(std::move(tokens), max_depth).run();
}

}  // namespace guildhall::jinja
