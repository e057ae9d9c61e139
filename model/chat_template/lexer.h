// lexer.h: a template's text becomes tokens: data as it will be printed, and what stands inside {{ }} and {%
// %}. Whitespace control is settled here: trim_blocks, lstrip_blocks, the signs - and +, raw blocks and
// comments.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace guildhall::jinja {

struct Token {
  enum class Kind {
    data,
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  Kind kind = Kind::end;
  std::string text;  // of data and strings: the bytes themselves
  int line = 1;

  bool is_op(std::string_view op) const { return kind == Kind::op && text == op; }
  bool is_name(std::string_view name) const { return kind == Kind::name && text == name; }
};

// The last token is `end`. Errors tell the line.
Result<std::vector<Token>> tokenize_template(std::string_view source);

Status template_error(int line, std::string_view message);

}  // namespace guildhall::jinja
