// methods.cc: methods of lists, dicts and loop; those of texts are in text_methods.cc.
#include "model/chat_template/builtins.h"
#include "model/chat_template/operators.h"

namespace guildhall::jinja {
namespace {

Sequence& list_of(const Value& self) { return **self.as<SequencePtr>(); }
const Dict& dict_of(const Value& self) { return **self.as<DictPtr>(); }

Result<Value> append(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("append", args, {"item"}, 1));
  GH_TRY(runtime.spend(1));
  Sequence& list = list_of(self);
  list.depth = std::max(list.depth, nesting(*bound[0]) + 1);
  GH_TRY(runtime.check_depth(list.depth));
  runtime.keep(*self.as<SequencePtr>());
  list.items.push_back(*std::move(bound[0]));
  return Value{None{}};
}

Result<Value> pop(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("pop", args, {"index"}));
  std::vector<Value>& items = list_of(self).items;
  const auto size = static_cast<int64_t>(items.size());
  int64_t index = size - 1;
  if (bound[0] && !read_integer(*bound[0], index)) return misuse(*bound[0], "pop");
  if (index < 0 && bound[0]) index += size;
  if (index < 0 || index >= size) return failure("pop finds no item of that index");
  runtime.keep(*self.as<SequencePtr>());
  GH_TRY(runtime.spend(static_cast<size_t>(size - index) / 16));
  Value item = std::move(items[static_cast<size_t>(index)]);
  items.erase(items.begin() + index);
  return item;
}

Result<Value> index(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("index", args, {"item"}, 1));
  const std::vector<Value>& items = list_of(self).items;
  for (size_t i = 0; i < items.size(); ++i) {
    GH_ASSIGN(const bool same, equal(runtime, items[i], *bound[0]));
    if (same) return Value{static_cast<int64_t>(i)};
  }
  return failure("index finds no such item");
}

Result<Value> count(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("count", args, {"item"}, 1));
  int64_t found = 0;
  for (const Value& item : list_of(self).items) {
    GH_ASSIGN(const bool same, equal(runtime, item, *bound[0]));
    found += same ? 1 : 0;
  }
  return Value{found};
}

Result<Value> copy_list(Runtime& runtime, const Value& self, const Args& args) {
  GH_TRY(bind_args("copy", args, {}));
  return runtime.sequence(list_of(self).items);
}

Result<Value> get(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("get", args, {"key", "default"}, 1));
  const Dict& dict = dict_of(self);
  if (!is_hashable(*bound[0])) return misuse(*bound[0], "a dict's get");
  if (!bound[0]->is<Text>()) GH_TRY(runtime.spend(dict.entries().size()));
  if (const Value* value = dict.find(*bound[0])) return *value;
  return bound[1] ? *bound[1] : Value{None{}};
}

enum class Part { keys, values, items };

template <Part kPart>
Result<Value> view(Runtime& runtime, const Value& self, const Args& args) {
  constexpr std::string_view kNames[] = {"dict_keys", "dict_values", "dict_items"};
  GH_TRY(bind_args(kNames[static_cast<size_t>(kPart)], args, {}));
  std::vector<Value> all;
  for (const auto& [key, value] : dict_of(self).entries()) {
    if (kPart == Part::items) {
      GH_ASSIGN(Value pair, runtime.sequence({key, value}, Sequence::Kind::tuple));
      all.push_back(std::move(pair));
    } else {
      all.push_back(kPart == Part::keys ? key : value);
    }
  }
  GH_ASSIGN(Value made, runtime.sequence(std::move(all), Sequence::Kind::view));
  list_of(made).view_name = kNames[static_cast<size_t>(kPart)];
  return made;
}

Result<Value> copy_dict(Runtime& runtime, const Value& self, const Args& args) {
  GH_TRY(bind_args("copy", args, {}));
  GH_TRY(runtime.spend(dict_of(self).entries().size()));
  auto copy = std::make_shared<Dict>();
  copy->depth = dict_of(self).depth;
  for (const auto& [key, value] : dict_of(self).entries()) copy->set(key, value);
  return Value{std::move(copy)};
}

Result<Value> cycle(Runtime&, const Value& self, const Args& args) {
  if (args.positional.empty() || !args.keywords.empty())
    return failure("loop.cycle needs values to choose from");
  return args.positional[(*self.as<LoopPtr>())->index0 % args.positional.size()];
}

Result<Value> changed(Runtime& runtime, const Value& self, const Args& args) {
  Loop& loop = **self.as<LoopPtr>();
  GH_ASSIGN(Value now, runtime.sequence(args.positional, Sequence::Kind::tuple));
  bool same = false;
  if (loop.last_seen) {
    GH_ASSIGN(same, equal(runtime, *loop.last_seen, now));
  }
  if (!same) loop.last_seen = std::make_shared<Value>(std::move(now));
  return Value{!same};
}

constexpr MethodEntry kListMethods[] = {
    {"append", append}, {"pop", pop}, {"index", index}, {"count", count}, {"copy", copy_list}};
constexpr MethodEntry kTupleMethods[] = {{"index", index}, {"count", count}};
constexpr MethodEntry kDictMethods[] = {{"get", get},
                                        {"keys", view<Part::keys>},
                                        {"values", view<Part::values>},
                                        {"items", view<Part::items>},
                                        {"copy", copy_dict}};
constexpr MethodEntry kLoopMethods[] = {{"cycle", cycle}, {"changed", changed}};

}  // namespace

const MethodEntry* find_method(const Value& self, std::string_view name) {
  if (self.is<Text>()) return find_text_method(name);
  if (self.is<DictPtr>()) return find_entry(kDictMethods, name);
  if (self.is<LoopPtr>()) return find_entry(kLoopMethods, name);
  if (self.is_list()) return find_entry(kListMethods, name);
  return self.is_tuple() ? find_entry(kTupleMethods, name) : nullptr;
}

}  // namespace guildhall::jinja
