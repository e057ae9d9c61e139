// evaluator.h: runs a parsed template. One per render.
//
// Names live in scopes, one inside the other: the template's, each for's round, each call of a macro. `set`
// writes to the innermost, so what a for's body sets is gone in its next round; an if has no scope of its
// own. A macro sees the scope it was defined in.
#pragma once

#include <deque>

#include "model/chat_template/builtins.h"
#include "model/chat_template/syntax.h"

namespace guildhall::jinja {

struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> names;  // views of the template's own names
};

struct Macro {
  const Stmt* stmt = nullptr;
  Scope* scope = nullptr;  // the render keeps it
};

class Evaluator {
 public:
  // `context`: what the template is given. All outlive the evaluator.
  Evaluator(Runtime& runtime, const Dict& context) : runtime_(runtime), context_(context) {}

  // The whole output. After an error, line() is where it happened.
  Result<std::string> run(const Body& body);
  int line() const { return line_; }

 private:
  enum class Flow { on, leave, next };
  Result<Flow> run_body(const Body& body);
  Result<Flow> run_stmt(const Stmt& stmt);
  Result<Flow> run_stmt_inner(const Stmt& stmt);
  Result<Flow> run_loop(const Stmt& stmt);
  Result<Flow> run_in_scope(const Body& body);
  Result<std::vector<Value>> loop_items(const Stmt& stmt);
  Result<void> set_block(const Stmt& stmt);
  Result<Value> captured(const Body& body);
  Result<void> write(std::string_view text);

  Result<void> assign(const Target& target, const Value& value);
  void define(std::string_view name, Value value);
  const Value* find_name(std::string_view name) const;
  void enter(Scope* parent);
  void leave(Scope* outer, size_t num_macros);

  Result<Value> eval(const Expr& expr);
  Result<Value> eval_inner(const Expr& expr);
  Result<Value> eval_name(const Expr& expr);
  Result<Value> eval_items(const Expr& expr);
  Result<Value> eval_dict(const Expr& expr);
  Result<Value> eval_slice(const Expr& expr);
  Result<Value> eval_call(const Expr& expr);
  Result<Value> eval_filter(const Expr& expr);
  Result<Value> eval_test(const Expr& expr);
  Result<Value> eval_logic(const Expr& expr);
  Result<Value> eval_concat(const Expr& expr);
  Result<Value> eval_compare(const Expr& expr);
  Result<Args> eval_args(const Expr& expr);
  Result<Value> call_macro(const Macro& macro, Args args);
  Result<void> bind_parameters(const Stmt& stmt, Args& args);

  Runtime& runtime_;
  const Dict& context_;
  std::deque<Scope> scopes_;
  Scope* scope_ = nullptr;
  TextOut* out_ = nullptr;
  const Value* block_text_ = nullptr;  // what a set block's filters begin with
  size_t num_macros_ = 0;              // defined so far: a scope that a macro may need stays
  int depth_ = 0;
  int line_ = 0;
};

}  // namespace guildhall::jinja
