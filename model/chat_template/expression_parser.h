// expression_parser.h: the part of the grammar inside a tag. The statement parser builds on it.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/chat_template/lexer.h"
#include "model/chat_template/syntax.h"

namespace guildhall::jinja {

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, int max_depth)
      : tokens_(std::move(tokens)), max_depth_(max_depth) {}

 protected:
  // One or several expressions with commas between them, which make a tuple.
  struct TupleRule {
    bool conditionals = true;   // whether "a if b" may stand here
    bool may_be_empty = false;  // () in parentheses
    std::string_view end_name;  // a name that ends it as a bracket would
  };
  Result<ExprPtr> tuple(const TupleRule& rule);
  Result<ExprPtr> expression();
  Result<ExprPtr> disjunction();
  // "| name(args) | ..." after `subject`, which may be null for the filters of a set block.
  Result<ExprPtr> filters(ExprPtr subject);
  Result<Target> target(bool with_attributes, std::string_view end_name);
  Result<std::string> identifier(std::string_view what);

  const Token& now() const { return tokens_[pos_]; }
  const Token& ahead() const { return tokens_[pos_ + 1 < tokens_.size() ? pos_ + 1 : pos_]; }
  void advance() {
    if (pos_ + 1 < tokens_.size()) ++pos_;
  }
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  Result<void> expect_op(std::string_view op);
  Status fail(std::string_view message) const { return template_error(now().line, message); }
  Status unexpected(std::string_view wanted) const;

  // Counts nesting while it lives.
  class Deeper {
   public:
    explicit Deeper(int& depth) : depth_(depth) { ++depth_; }
    ~Deeper() { --depth_; }
    Deeper(const Deeper&) = delete;

   private:
    int& depth_;
  };
  int depth_ = 0;
  Status too_deep() const;
  bool is_too_deep() const { return depth_ > max_depth_; }

  std::set<std::string, std::less<>> names_read_;  // since a macro began
  // A filter or test that does not exist is an error before anything is rendered, except, as in Jinja,
  // directly in an if or a conditional expression: there it is one when it is reached.
  std::optional<Status> unknown_;
  bool may_be_unknown_ = false;

 private:
  using Rule = Result<ExprPtr> (ExpressionParser::*)();
  struct Call {
    std::vector<ExprPtr> positional;
    std::vector<Keyword> keywords;
  };
  Result<ExprPtr> conjunction();
  Result<ExprPtr> negation();
  Result<ExprPtr> comparison();
  Result<std::optional<std::string>> comparison_operator();
  Result<ExprPtr> sum();
  Result<ExprPtr> concatenation();
  Result<ExprPtr> product();
  Result<ExprPtr> power();
  Result<ExprPtr> unary(bool with_filters);
  Result<ExprPtr> filtered_unary() { return unary(true); }
  Result<ExprPtr> primary();
  Result<ExprPtr> name_or_constant();
  Result<ExprPtr> number();
  Result<ExprPtr> text();
  Result<ExprPtr> list();
  Result<ExprPtr> dict();
  Result<ExprPtr> postfix(ExprPtr subject);
  Result<ExprPtr> attribute(ExprPtr subject);
  Result<ExprPtr> subscript(ExprPtr subject);
  Result<ExprPtr> test(ExprPtr subject);
  Result<ExprPtr> call(ExprPtr subject);
  Result<Call> call_args();
  void note_unknown(int line, std::string_view kind, std::string_view name);
  Result<std::string> dotted_name(std::string_view what);
  Result<ExprPtr> left_to_right(Rule operand, std::initializer_list<std::string_view> operators);

  std::unique_ptr<Expr> node(Expr::Op op, int line) const;
  // Adds a part and keeps count of the depth.
  static void add(Expr& expr, ExprPtr part);
  static void add_call(Expr& expr, Call call);
  Result<ExprPtr> finished(std::unique_ptr<Expr> expr) const;

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int max_depth_;
};

}  // namespace guildhall::jinja
