// operators.h: Python's operators on a template's values.
#pragma once

#include "model/chat_template/runtime.h"

namespace guildhall::jinja {

// == of all but lists, tuples and dicts, which are the same only in name here.
bool same_scalar(const Value& a, const Value& b);
Result<bool> equal(Runtime& runtime, const Value& a, const Value& b);
// a < b; only numbers, texts, and lists or tuples of these have an order.
Result<bool> less(Runtime& runtime, const Value& a, const Value& b);
Result<bool> contains(Runtime& runtime, const Value& container, const Value& item);
// One of == != < <= > >= in, "not in".
Result<bool> compare(Runtime& runtime, std::string_view op, const Value& a, const Value& b);

// One of + - * / // % **.
Result<Value> arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b);
Result<Value> negated(const Value& value);

// a.name: an attribute or method, else the key; undefined when there is neither.
Result<Value> get_attribute(const Value& subject, std::string_view name);
// a[key]: the key or index, else the attribute.
Result<Value> get_item(Runtime& runtime, const Value& subject, const Value& key);
struct SliceBounds {
  Value start, stop, step;  // none where not given
};
Result<Value> get_slice(Runtime& runtime, const Value& subject, const SliceBounds& bounds);

// What a for walks: items of lists, characters of texts, keys of dicts. Consumes a generator.
Result<std::vector<Value>> iterate(Runtime& runtime, const Value& value);
Result<int64_t> length_of(const Value& value);

}  // namespace guildhall::jinja
