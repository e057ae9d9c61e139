// print.h: values as text: str() and repr() of Python, and JSON.
#pragma once

#include "model/chat_template/runtime.h"

namespace guildhall::jinja {

// str(value): what {{ }} prints. Texts come back as they are, without a copy.
Result<Value> to_text(Runtime& runtime, const Value& value);
// The same into a text that is growing.
Result<void> print(const Value& value, TextOut& out);
Result<void> print_repr(const Value& value, TextOut& out);

struct JsonStyle {
  bool ensure_ascii = false;          // \uXXXX for all beyond ASCII
  std::optional<std::string> indent;  // one level's; absent: everything on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
};
// json.dumps of Python, byte for byte.
Result<void> print_json(const Value& value, const JsonStyle& style, TextOut& out);

}  // namespace guildhall::jinja
