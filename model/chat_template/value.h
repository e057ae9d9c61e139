// value.h: what a chat template computes with: Python's values, as far as templates can tell.
// Values of one render belong to one thread; literals of a parsed template are shared and never change.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace guildhall::jinja {

struct Value;
struct Macro;  // evaluator.h

// A name, key or item that is not there. Prints nothing and is false; anything more is an error that tells
// `what`.
struct Undefined {
  std::shared_ptr<const std::string> what;
};

struct None {};

// UTF-8; lengths and indices count code points. `markup` is what the filter safe leaves: text whose sums
// escape HTML.
struct Text {
  std::shared_ptr<const std::string> bytes;
  bool markup = false;
  std::string_view view() const { return *bytes; }
};

// Everything that is a row of items. A generator can be walked once and has no length; a view is what a
// dict's keys(), values() and items() give, which can only be walked.
struct Sequence {
  enum class Kind { list, tuple, range, generator, view };
  Kind kind = Kind::list;
  std::vector<Value> items;
  int64_t start = 0, stop = 0, step = 1;  // of a range
  std::string_view view_name;             // "dict_keys" and so on
  int depth = 1;                          // of nesting when it was made
  bool consumed = false;                  // of a generator
  bool kept = false;                      // in the render's list of what was changed
  bool is_indexable() const { return kind == Kind::list || kind == Kind::tuple || kind == Kind::range; }
};

// Keys keep the order of their first insertion.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;
  const std::vector<Entry>& entries() const { return entries_; }
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);
  int depth = 1;

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, size_t> index_;  // of text keys; views of the entries' own bytes
};

// namespace(...): the one thing whose attributes a template may set.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

// `loop` inside a for.
struct Loop {
  std::vector<Value> items;
  size_t index0 = 0;
  std::shared_ptr<Value> last_seen;  // by changed()
};

struct Runtime;
struct Args;
struct FunctionEntry;  // builtins.h
struct MethodEntry;

// A global function, a macro, or a method with the value it belongs to.
struct Callable {
  const FunctionEntry* function = nullptr;
  const MethodEntry* method = nullptr;
  std::shared_ptr<const Value> self;
  std::shared_ptr<const Macro> macro;
};

using SequencePtr = std::shared_ptr<Sequence>;
using DictPtr = std::shared_ptr<Dict>;
using NamespacePtr = std::shared_ptr<Namespace>;
using LoopPtr = std::shared_ptr<Loop>;

struct Value {
  using Variant = std::variant<Undefined, None, bool, int64_t, double, Text, SequencePtr, DictPtr,
                               NamespacePtr, LoopPtr, Callable>;
  Variant data;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&data);
  }
  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data);
  }
  bool is_list() const { return is<SequencePtr>() && (*as<SequencePtr>())->kind == Sequence::Kind::list; }
  bool is_tuple() const { return is<SequencePtr>() && (*as<SequencePtr>())->kind == Sequence::Kind::tuple; }
};

inline Value make_text(std::string text, bool markup = false) {
  return {Text{std::make_shared<const std::string>(std::move(text)), markup}};
}
inline Value make_undefined(std::string what) {
  return {Undefined{std::make_shared<const std::string>(std::move(what))}};
}

// "'x' is undefined" or what else is known of it.
std::string what_is_missing(const Undefined& value);
// "str", "list", "NoneType": Python's name of the type, for errors.
std::string_view type_name(const Value& value);

bool truth(const Value& value);

// Numbers as Python sees them: bool counts as 0 or 1.
struct Number {
  bool is_real = false;
  int64_t integer = 0;
  double real = 0;
  double as_real() const { return is_real ? real : static_cast<double>(integer); }
};
bool read_number(const Value& value, Number& number);
// An int or a bool.
bool read_integer(const Value& value, int64_t& integer);

// How deeply a list or dict is nested; 0 for what holds no values of its own.
int nesting(const Value& value);
// Whether it may be a dict's key: all but lists, dicts and, unlike in Python, tuples.
bool is_hashable(const Value& value);

}  // namespace guildhall::jinja
