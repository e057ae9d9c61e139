// builtins.h: the functions, filters, tests and methods that templates may call, by name.
#pragma once

#include "model/chat_template/runtime.h"

namespace guildhall::jinja {

struct FunctionEntry {
  std::string_view name;
  Result<Value> (*call)(Runtime& runtime, const Args& args);
};

struct FilterEntry {
  std::string_view name;
  Result<Value> (*apply)(Runtime& runtime, const Value& subject, const Args& args);
};

struct TestEntry {
  std::string_view name;
  Result<bool> (*holds)(Runtime& runtime, const Value& subject, const Args& args);
};

struct MethodEntry {
  std::string_view name;
  Result<Value> (*call)(Runtime& runtime, const Value& self, const Args& args);
};

// Null when there is none of that name.
const FunctionEntry* find_function(std::string_view name);
const FilterEntry* find_filter(std::string_view name);
const TestEntry* find_test(std::string_view name);
// Methods of this value's type.
const MethodEntry* find_method(const Value& self, std::string_view name);
const MethodEntry* find_text_method(std::string_view name);

// Applies a filter or test by name; errors name what is not there.
Result<Value> apply_filter(Runtime& runtime, std::string_view name, const Value& subject, const Args& args);
Result<bool> apply_test(Runtime& runtime, std::string_view name, const Value& subject, const Args& args);

// The tables, one per file.
const FilterEntry* find_text_filter(std::string_view name);
const FilterEntry* find_sequence_filter(std::string_view name);

template <class Entry, size_t kSize>
const Entry* find_entry(const Entry (&table)[kSize], std::string_view name) {
  for (const Entry& entry : table)
    if (entry.name == name) return &entry;
  return nullptr;
}

// The value as text when it is one or was not given; an error otherwise.
Result<std::optional<std::string_view>> optional_text(const std::optional<Value>& value,
                                                      std::string_view callee);

}  // namespace guildhall::jinja
