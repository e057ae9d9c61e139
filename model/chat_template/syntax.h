// syntax.h: a parsed template: statements that hold expressions. Built by the parser, then never changed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/chat_template/value.h"

namespace guildhall::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<const Expr>;

struct Keyword {
  std::string name;
  ExprPtr value;
};

struct Expr {
  enum class Op {
    literal,      // literal
    name,         // name
    list,         // parts: items
    tuple,        // parts: items
    dict,         // parts: key, value, key, value...
    attribute,    // parts[0].name
    item,         // parts[0][parts[1]]
    slice,        // parts[0][parts[1]:parts[2]:parts[3]]; a bound that is not given is null
    call,         // parts[0](parts[1..], keywords)
    filter,       // parts[0] | name(parts[1..], keywords)
    test,         // parts[0] is name(parts[1..], keywords)
    negate,       // -parts[0]
    plus,         // +parts[0]
    logical_not,  // not parts[0]
    logical_and,  // parts[0] and parts[1]
    logical_or,   // parts[0] or parts[1]
    arithmetic,   // parts[0] name parts[1]; name is + - * / // % **
    concat,       // parts[0] ~ parts[1] ~ ...
    compare,      // parts[0] names[0] parts[1] names[1] parts[2]...
    conditional,  // parts[0] if parts[1] else parts[2]; without else two parts
  };
  Op op = Op::literal;
  int line = 1;
  int depth = 1;  // of the tree below, for the limit
  Value literal;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExprPtr> parts;
  std::vector<Keyword> keywords;
};

// What an assignment or a for gives values to: a name, an attribute of a namespace, or several of these.
struct Target {
  std::string name, attribute;
  std::vector<Target> parts;
};

struct Stmt;
using Body = std::vector<std::unique_ptr<const Stmt>>;

struct Parameter {
  std::string name;
  ExprPtr default_value;  // may be null
};

struct Stmt {
  enum class Op {
    data,       // text
    print,      // expr
    branch,     // if expr: body, else: other (an elif is a branch in other)
    loop,       // for target in expr if condition: body, else: other
    set,        // set target = expr
    set_block,  // set target, then body, through filters around a null expr
    macro,      // macro text(parameters): body
    scope,      // body, with names of its own
    leave,      // break
    next,       // continue
  };
  Op op = Op::data;
  int line = 1;
  std::string text;
  ExprPtr expr, condition;
  Target target;
  std::vector<Parameter> parameters;
  bool takes_more_args = false, takes_more_keywords = false;  // a macro whose body names varargs, kwargs
  Body body, other;
};

}  // namespace guildhall::jinja
