// sequence_filters.cc: filters over the items of lists, dicts and texts.
#include <algorithm>

#include "model/chat_template/builtins.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/print.h"
#include "model/chat_template/python_text.h"

namespace guildhall::jinja {
namespace {

using Kind = Sequence::Kind;

// "a.b.0" from an item: each part by key first, then as an attribute; digits are an index. What a part does
// not find becomes `otherwise`, if that is given.
Result<Value> dig(Runtime& runtime, Value value, const Value& path,
                  const std::optional<Value>& otherwise = std::nullopt) {
  const auto found = [&](Value part) { return part.is<Undefined>() && otherwise ? *otherwise : part; };
  if (!path.is<Text>()) {
    GH_ASSIGN(value, get_item(runtime, value, path));
    return found(std::move(value));
  }
  for (const std::string_view part : split(path.as<Text>()->view(), {.separator = "."})) {
    const bool is_index =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string_view::npos;
    const Value key = is_index ? Value{int64_t{std::stoi(std::string(part))}} : make_text(std::string(part));
    GH_ASSIGN(value, get_item(runtime, value, key));
    value = found(std::move(value));
  }
  return value;
}

// What map, select and reject walk over: what is false, like none, counts as empty to them.
Result<std::vector<Value>> items_if_true(Runtime& runtime, const Value& value) {
  if (!truth(value)) return std::vector<Value>();
  return iterate(runtime, value);
}

// What items are compared by: an attribute of them, texts without their case.
struct SortKey {
  std::optional<Value> attribute;
  bool case_sensitive = false;

  Result<Value> of(Runtime& runtime, const Value& item) const {
    Value key = item;
    if (attribute && !attribute->is<None>()) {
      GH_ASSIGN(key, dig(runtime, item, *attribute));
    }
    if (case_sensitive || !key.is<Text>()) return key;
    return runtime.text(lower(key.as<Text>()->view()));
  }
};

Result<Value> list(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("list", args, {}));
  GH_ASSIGN(std::vector<Value> items, iterate(runtime, value));
  return runtime.sequence(std::move(items));
}

Result<Value> items(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("items", args, {}));
  std::vector<Value> pairs;
  const DictPtr* dict = value.as<DictPtr>();
  if (dict == nullptr && !value.is<Undefined>()) return misuse(value, "items");
  if (dict != nullptr) {
    for (const auto& [key, item] : (*dict)->entries()) {
      GH_ASSIGN(Value pair, runtime.sequence({key, item}, Kind::tuple));
      pairs.push_back(std::move(pair));
    }
  }
  return runtime.sequence(std::move(pairs), Kind::generator);
}

Result<Value> first(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("first", args, {}));
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  return all.empty() ? make_undefined("there is no first item in an empty sequence") : all.front();
}

Result<Value> last(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("last", args, {}));
  const SequencePtr* sequence = value.as<SequencePtr>();
  if (sequence != nullptr && (*sequence)->kind == Kind::generator) return misuse(value, "last");
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  return all.empty() ? make_undefined("there is no last item in an empty sequence") : all.back();
}

Result<Value> join(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("join", args, {"d", "attribute"}));
  TextOut separator = runtime.text_out();
  if (bound[0]) GH_TRY(print(*bound[0], separator));
  const std::string between = separator.take();
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  TextOut out = runtime.text_out();
  for (size_t i = 0; i < all.size() && !out.full(); ++i) {
    if (i > 0) out.add(between);
    if (bound[1] && !bound[1]->is<None>()) {
      GH_ASSIGN(all[i], dig(runtime, all[i], *bound[1]));
    }
    GH_TRY(print(all[i], out));
  }
  return runtime.text(std::move(out));
}

Result<Value> reverse(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("reverse", args, {}));
  if (value.is<Text>()) return get_slice(runtime, value, {{None{}}, {None{}}, {int64_t{-1}}});
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  std::reverse(all.begin(), all.end());
  return runtime.sequence(std::move(all), Kind::generator);
}

// The arguments after the first `count`, for the filter or test that the first ones name.
Args without(const Args& args, size_t count) {
  return {{args.positional.begin() + static_cast<std::ptrdiff_t>(count), args.positional.end()},
          args.keywords};
}

Result<std::string_view> name_argument(const Args& args, size_t at, std::string_view callee) {
  if (!args.positional[at].is<Text>()) return misuse(args.positional[at], callee);
  return args.positional[at].as<Text>()->view();
}

Result<Value> map_attribute(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("map", args, {"attribute", "default"}, 1));
  GH_ASSIGN(std::vector<Value> all, items_if_true(runtime, value));
  for (Value& item : all) {
    GH_ASSIGN(item, dig(runtime, item, *bound[0], bound[1]));
  }
  return runtime.sequence(std::move(all), Kind::generator);
}

Result<Value> map(Runtime& runtime, const Value& value, const Args& args) {
  if (args.positional.empty()) return map_attribute(runtime, value, args);
  GH_ASSIGN(const std::string_view name, name_argument(args, 0, "map"));
  const Args rest = without(args, 1);
  GH_ASSIGN(std::vector<Value> all, items_if_true(runtime, value));
  for (Value& item : all) {
    GH_ASSIGN(item, apply_filter(runtime, name, item, rest));
  }
  return runtime.sequence(std::move(all), Kind::generator);
}

// select, reject and their ...attr forms: keeps the items whose test has the wanted outcome. Without a test,
// truth.
template <bool kWanted, bool kByAttribute>
Result<Value> pick(Runtime& runtime, const Value& value, const Args& args) {
  const size_t at = kByAttribute ? 1 : 0;
  if (args.positional.size() < at) return failure("the filter needs the attribute's name");
  const bool has_test = args.positional.size() > at;
  std::string_view name;
  if (has_test) {
    GH_ASSIGN(name, name_argument(args, at, "the filter's test"));
  }
  const Args rest = has_test ? without(args, at + 1) : Args{};
  GH_ASSIGN(std::vector<Value> all, items_if_true(runtime, value));
  std::vector<Value> kept;
  for (Value& item : all) {
    Value subject = item;
    if constexpr (kByAttribute) {
      GH_ASSIGN(subject, dig(runtime, item, args.positional[0]));
    }
    bool outcome = truth(subject);
    if (has_test) {
      GH_ASSIGN(outcome, apply_test(runtime, name, subject, rest));
    }
    if (outcome == kWanted) kept.push_back(std::move(item));
  }
  return runtime.sequence(std::move(kept), Kind::generator);
}

// Sorts by keys; the first error of a comparison is the result's.
Result<void> sort_by_key(Runtime& runtime, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  std::optional<Status> problem;
  const auto before = [&](const auto& a, const auto& b) {
    if (problem) return false;
    const Result<bool> smaller = reverse ? less(runtime, b.first, a.first) : less(runtime, a.first, b.first);
    if (!smaller) problem = smaller.error();
    return smaller.has_value() && *smaller;
  };
  std::stable_sort(keyed.begin(), keyed.end(), before);
  if (problem) return *std::move(problem);
  return {};
}

Result<Value> sort(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("sort", args, {"reverse", "case_sensitive", "attribute"}));
  const SortKey key{bound[2], bound[1] && truth(*bound[1])};
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : all) {
    GH_ASSIGN(Value by, key.of(runtime, item));
    keyed.emplace_back(std::move(by), std::move(item));
  }
  GH_TRY(sort_by_key(runtime, keyed, bound[0] && truth(*bound[0])));
  for (size_t i = 0; i < all.size(); ++i) all[i] = std::move(keyed[i].second);
  return runtime.sequence(std::move(all));
}

Result<Value> dictsort(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("dictsort", args, {"case_sensitive", "by", "reverse"}));
  const DictPtr* dict = value.as<DictPtr>();
  if (dict == nullptr) return misuse(value, "dictsort");
  const std::string_view by = bound[1] && bound[1]->is<Text>() ? bound[1]->as<Text>()->view() : "key";
  if (by != "key" && by != "value") return failure("dictsort sorts by 'key' or 'value'");
  const SortKey rule{std::nullopt, bound[0] && truth(*bound[0])};
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, item] : (*dict)->entries()) {
    GH_ASSIGN(Value compared, rule.of(runtime, by == "key" ? key : item));
    GH_ASSIGN(Value pair, runtime.sequence({key, item}, Kind::tuple));
    keyed.emplace_back(std::move(compared), std::move(pair));
  }
  GH_TRY(sort_by_key(runtime, keyed, bound[2] && truth(*bound[2])));
  std::vector<Value> pairs;
  for (auto& each : keyed) pairs.push_back(std::move(each.second));
  return runtime.sequence(std::move(pairs));
}

Result<Value> unique(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("unique", args, {"case_sensitive", "attribute"}));
  const SortKey key{bound[1], bound[0] && truth(*bound[0])};
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  std::vector<Value> seen, kept;
  for (Value& item : all) {
    GH_ASSIGN(Value by, key.of(runtime, item));
    if (by.is_list() || by.is<DictPtr>()) return misuse(by, "unique");
    bool found = false;
    for (size_t i = 0; i < seen.size() && !found; ++i) {
      GH_ASSIGN(found, equal(runtime, seen[i], by));
    }
    if (found) continue;
    seen.push_back(std::move(by));
    kept.push_back(std::move(item));
  }
  return runtime.sequence(std::move(kept), Kind::generator);
}

template <bool kLargest>
Result<Value> extreme(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args(kLargest ? "max" : "min", args, {"case_sensitive", "attribute"}));
  const SortKey key{bound[1], bound[0] && truth(*bound[0])};
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  if (all.empty()) return make_undefined("an empty sequence has no largest or smallest item");
  size_t best = 0;
  GH_ASSIGN(Value best_key, key.of(runtime, all[0]));
  for (size_t i = 1; i < all.size(); ++i) {
    GH_ASSIGN(Value by, key.of(runtime, all[i]));
    GH_ASSIGN(const bool better, kLargest ? less(runtime, best_key, by) : less(runtime, by, best_key));
    if (!better) continue;
    best = i;
    best_key = std::move(by);
  }
  return all[best];
}

Result<Value> sum(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("sum", args, {"attribute", "start"}));
  Value total = bound[1] ? *bound[1] : Value{int64_t{0}};
  if (total.is<Text>()) return misuse(total, "sum");
  GH_ASSIGN(std::vector<Value> all, iterate(runtime, value));
  for (Value& item : all) {
    if (bound[0] && !bound[0]->is<None>()) {
      GH_ASSIGN(item, dig(runtime, item, *bound[0]));
    }
    GH_ASSIGN(total, arithmetic(runtime, "+", total, item));
  }
  return total;
}

constexpr FilterEntry kFilters[] = {
    {"list", list},
    {"items", items},
    {"first", first},
    {"last", last},
    {"join", join},
    {"reverse", reverse},
    {"map", map},
    {"select", pick<true, false>},
    {"reject", pick<false, false>},
    {"selectattr", pick<true, true>},
    {"rejectattr", pick<false, true>},
    {"sort", sort},
    {"dictsort", dictsort},
    {"unique", unique},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"sum", sum},
};

}  // namespace

const FilterEntry* find_sequence_filter(std::string_view name) { return find_entry(kFilters, name); }

const FilterEntry* find_filter(std::string_view name) {
  const FilterEntry* filter = find_text_filter(name);
  return filter != nullptr ? filter : find_sequence_filter(name);
}

Result<Value> apply_filter(Runtime& runtime, std::string_view name, const Value& subject, const Args& args) {
  const FilterEntry* filter = find_filter(name);
  if (filter == nullptr) return failure(fmt::format("there is no filter named {}", name));
  GH_TRY(runtime.spend(1));
  return filter->apply(runtime, subject, args);
}

}  // namespace guildhall::jinja
