// access.cc: a.b, a[b], a[b:c] and walking over values.
#include <algorithm>

#include "model/chat_template/builtins.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/python_text.h"

namespace guildhall::jinja {
namespace {

Value missing(const Value& subject, const Value& key) {
  TextOut shown(64);
  if (const Text* text = key.as<Text>())
    shown.add(fmt::format("'{}'", text->view().substr(0, 40)));
  else if (const int64_t* integer = key.as<int64_t>())
    shown.add(std::to_string(*integer));
  else
    shown.add(type_name(key));
  return make_undefined(fmt::format("a value of type {} has no {}", type_name(subject), shown.take()));
}

std::optional<Value> loop_attribute(const LoopPtr& loop, std::string_view name) {
  const auto number = [](size_t value) { return Value{static_cast<int64_t>(value)}; };
  const size_t length = loop->items.size(), at = loop->index0;
  if (name == "index") return number(at + 1);
  if (name == "index0") return number(at);
  if (name == "revindex") return number(length - at);
  if (name == "revindex0") return number(length - at - 1);
  if (name == "first") return Value{at == 0};
  if (name == "last") return Value{at + 1 == length};
  if (name == "length") return number(length);
  // Depth counts recursive loops, which are not supported.
  if (name == "depth") return number(1);
  if (name == "depth0") return number(0);
  if (name == "previtem") return at > 0 ? loop->items[at - 1] : make_undefined("there is no previous item");
  if (name == "nextitem")
    return at + 1 < length ? loop->items[at + 1] : make_undefined("there is no next item");
  return std::nullopt;
}

std::optional<Value> own_attribute(const Value& subject, std::string_view name) {
  if (const NamespacePtr* attributes = subject.as<NamespacePtr>()) {
    for (const auto& [key, value] : (*attributes)->attributes)
      if (key == name) return value;
  }
  if (const LoopPtr* loop = subject.as<LoopPtr>())
    if (std::optional<Value> value = loop_attribute(*loop, name)) return value;
  if (const MethodEntry* method = find_method(subject, name))
    return Value{Callable{.method = method, .self = std::make_shared<const Value>(subject)}};
  return std::nullopt;
}

// An item of a list or text by a number that may count from the end.
template <class Items>
auto at_index(const Items& items, int64_t index) -> decltype(&items[0]) {
  const auto size = static_cast<int64_t>(items.size());
  if (index < 0) index += size;
  return index < 0 || index >= size ? nullptr : &items[static_cast<size_t>(index)];
}

struct Range {
  int64_t start, stop, step;
};

// Python's rule for slices: bounds count from the end when negative, and stop at the edges.
Result<Range> resolve(const SliceBounds& bounds, int64_t length) {
  const auto bound = [](const Value& value, std::optional<int64_t>& number) -> Result<void> {
    int64_t integer = 0;
    if (value.is<None>()) return {};
    if (!read_integer(value, integer)) return misuse(value, "a slice");
    number = integer;
    return {};
  };
  std::optional<int64_t> start, stop, step;
  GH_TRY(bound(bounds.start, start));
  GH_TRY(bound(bounds.stop, stop));
  GH_TRY(bound(bounds.step, step));
  Range range{0, 0, step.value_or(1)};
  if (range.step == 0) return failure("a slice has the step 0");
  const bool back = range.step < 0;
  const int64_t low = back ? -1 : 0, high = back ? length - 1 : length;
  const auto place = [&](int64_t at) {
    if (at < 0) at = at < -length ? -1 : at + length;
    return std::clamp(at, low, high);
  };
  range.start = start ? place(*start) : (back ? high : low);
  range.stop = stop ? place(*stop) : (back ? low : high);
  return range;
}

template <class Take>
void walk(const Range& range, int64_t length, Take take) {
  const int64_t step = std::clamp(range.step, -length - 1, length + 1);
  for (int64_t at = range.start; step > 0 ? at < range.stop : at > range.stop; at += step)
    take(static_cast<size_t>(at));
}

}  // namespace

Result<Value> get_attribute(const Value& subject, std::string_view name) {
  if (const Undefined* undefined = subject.as<Undefined>()) return failure(what_is_missing(*undefined));
  if (std::optional<Value> value = own_attribute(subject, name)) return *std::move(value);
  if (const DictPtr* dict = subject.as<DictPtr>())
    if (const Value* value = (*dict)->find(name)) return *value;
  if (name.starts_with("__")) return failure(fmt::format("{} is not for templates", name));
  return missing(subject, make_text(std::string(name)));
}

Result<Value> get_item(Runtime& runtime, const Value& subject, const Value& key) {
  if (const Undefined* undefined = subject.as<Undefined>()) return failure(what_is_missing(*undefined));
  int64_t index = 0;
  if (const DictPtr* dict = subject.as<DictPtr>(); dict != nullptr && is_hashable(key)) {
    if (!key.is<Text>()) GH_TRY(runtime.spend((*dict)->entries().size()));
    if (const Value* value = (*dict)->find(key)) return *value;
  } else if (const SequencePtr* sequence = subject.as<SequencePtr>();
             sequence != nullptr && (*sequence)->is_indexable() && read_integer(key, index)) {
    if (const Value* value = at_index((*sequence)->items, index)) return *value;
  } else if (const Text* text = subject.as<Text>(); text != nullptr && read_integer(key, index)) {
    GH_TRY(runtime.spend(text->view().size() / 2));
    const std::vector<std::string_view> chars = split_chars(text->view());
    if (const std::string_view* one = at_index(chars, index))
      return make_text(std::string(*one), text->markup);
  }
  if (const Text* name = key.as<Text>())
    if (std::optional<Value> value = own_attribute(subject, name->view())) return *std::move(value);
  return missing(subject, key);
}

Result<Value> get_slice(Runtime& runtime, const Value& subject, const SliceBounds& bounds) {
  if (const Text* text = subject.as<Text>()) {
    GH_TRY(runtime.spend(text->view().size() / 2));
    const std::vector<std::string_view> chars = split_chars(text->view());
    const auto length = static_cast<int64_t>(chars.size());
    GH_ASSIGN(const Range range, resolve(bounds, length));
    TextOut out = runtime.text_out();
    walk(range, length, [&](size_t at) { out.add(chars[at]); });
    return runtime.text(std::move(out), text->markup);
  }
  const SequencePtr* sequence = subject.as<SequencePtr>();
  if (sequence == nullptr || !(*sequence)->is_indexable()) return misuse(subject, "a slice");
  const std::vector<Value>& all = (*sequence)->items;
  const auto length = static_cast<int64_t>(all.size());
  GH_ASSIGN(const Range range, resolve(bounds, length));
  std::vector<Value> items;
  walk(range, length, [&](size_t at) { items.push_back(all[at]); });
  GH_ASSIGN(Value slice, runtime.sequence(std::move(items), (*sequence)->kind));
  Sequence& made = **slice.as<SequencePtr>();
  if (made.kind == Sequence::Kind::range) {
    const Sequence& from = **sequence;
    if (__builtin_mul_overflow(range.start, from.step, &made.start) ||
        __builtin_add_overflow(made.start, from.start, &made.start) ||
        __builtin_mul_overflow(range.stop, from.step, &made.stop) ||
        __builtin_add_overflow(made.stop, from.start, &made.stop) ||
        __builtin_mul_overflow(range.step, from.step, &made.step))
      return failure("a slice of a range does not fit 64 bits");
  }
  return slice;
}

Result<std::vector<Value>> iterate(Runtime& runtime, const Value& value) {
  std::vector<Value> items;
  if (value.is<Undefined>()) return items;
  if (const SequencePtr* sequence = value.as<SequencePtr>()) {
    if ((*sequence)->kind == Sequence::Kind::generator && std::exchange((*sequence)->consumed, true))
      return items;
    GH_TRY(runtime.spend((*sequence)->items.size()));
    return (*sequence)->items;
  }
  if (const DictPtr* dict = value.as<DictPtr>()) {
    GH_TRY(runtime.spend((*dict)->entries().size()));
    for (const Dict::Entry& entry : (*dict)->entries()) items.push_back(entry.first);
    return items;
  }
  const Text* text = value.as<Text>();
  if (text == nullptr) return misuse(value, "walking over items");
  GH_TRY(runtime.spend(text->view().size()));
  for (const std::string_view one : split_chars(text->view())) items.push_back(make_text(std::string(one)));
  return items;
}

Result<int64_t> length_of(const Value& value) {
  if (value.is<Undefined>()) return int64_t{0};
  if (const Text* text = value.as<Text>()) return num_chars(text->view());
  if (const DictPtr* dict = value.as<DictPtr>()) return static_cast<int64_t>((*dict)->entries().size());
  const SequencePtr* sequence = value.as<SequencePtr>();
  if (sequence == nullptr || (*sequence)->kind == Sequence::Kind::generator) return misuse(value, "length");
  return static_cast<int64_t>((*sequence)->items.size());
}

}  // namespace guildhall::jinja
