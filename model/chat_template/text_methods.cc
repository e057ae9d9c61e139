// text_methods.cc: methods of texts, as Python's str has them.
#include <algorithm>

#include "model/chat_template/builtins.h"
#include "model/chat_template/print.h"
#include "model/chat_template/python_text.h"

namespace guildhall::jinja {
namespace {

const Text& text_of(const Value& self) { return *self.as<Text>(); }

Result<std::string_view> text_arg(const std::optional<Value>& value, std::string_view callee) {
  if (!value->is<Text>()) return misuse(*value, callee);
  return value->as<Text>()->view();
}

template <std::string (*kChange)(std::string_view)>
Result<Value> changed(Runtime& runtime, const Value& self, const Args& args) {
  GH_TRY(bind_args("the method", args, {}));
  return runtime.text(kChange(text_of(self).view()), text_of(self).markup);
}

template <bool (*kHolds)(std::string_view)>
Result<Value> asks(Runtime&, const Value& self, const Args& args) {
  GH_TRY(bind_args("the method", args, {}));
  return Value{kHolds(text_of(self).view())};
}

bool is_space(std::string_view text) { return !text.empty() && strip_left(text, std::nullopt).empty(); }

template <bool kLeft, bool kRight>
Result<Value> stripped(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("strip", args, {"chars"}));
  GH_ASSIGN(auto chars, optional_text(bound[0], "strip"));
  std::string_view text = text_of(self).view();
  if (kLeft) text = strip_left(text, chars);
  if (kRight) text = strip_right(text, chars);
  return runtime.text(std::string(text), text_of(self).markup);
}

template <bool kFromRight>
Result<Value> parts(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("split", args, {"sep", "maxsplit"}));
  SplitRule rule;
  GH_ASSIGN(rule.separator, optional_text(bound[0], "split"));
  if (rule.separator && rule.separator->empty()) return failure("split needs a separator that is not empty");
  if (bound[1] && !read_integer(*bound[1], rule.max_splits))
    return misuse(*bound[1], "the maxsplit of split");
  GH_TRY(runtime.spend(text_of(self).view().size() / 16));
  std::vector<Value> made;
  for (const std::string_view part :
       kFromRight ? split_from_right(text_of(self).view(), rule) : split(text_of(self).view(), rule))
    made.push_back(make_text(std::string(part), text_of(self).markup));
  return runtime.sequence(std::move(made));
}

Result<Value> lines(Runtime& runtime, const Value& self, const Args& args) {
  GH_TRY(bind_args("splitlines", args, {}));
  GH_TRY(runtime.spend(text_of(self).view().size() / 16));
  std::vector<Value> made;
  for (const std::string_view line : split_lines(text_of(self).view()))
    made.push_back(make_text(std::string(line), text_of(self).markup));
  return runtime.sequence(std::move(made));
}

// startswith and endswith: one text, or a tuple of which any may fit.
template <bool kAtEnd>
Result<Value> fits(Runtime&, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args(kAtEnd ? "endswith" : "startswith", args, {"affix"}, 1));
  const std::string_view text = text_of(self).view();
  const auto fits_one = [&](std::string_view affix) {
    return kAtEnd ? text.ends_with(affix) : text.starts_with(affix);
  };
  if (!bound[0]->is_tuple()) {
    GH_ASSIGN(const std::string_view affix, text_arg(bound[0], kAtEnd ? "endswith" : "startswith"));
    return Value{fits_one(affix)};
  }
  for (const Value& each : (*bound[0]->as<SequencePtr>())->items) {
    if (!each.is<Text>()) return misuse(each, kAtEnd ? "endswith" : "startswith");
    if (fits_one(each.as<Text>()->view())) return Value{true};
  }
  return Value{false};
}

template <bool kSuffix>
Result<Value> without_affix(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args(kSuffix ? "removesuffix" : "removeprefix", args, {"affix"}, 1));
  GH_ASSIGN(const std::string_view affix, text_arg(bound[0], "removing it from a text"));
  std::string_view text = text_of(self).view();
  if (kSuffix ? text.ends_with(affix) : text.starts_with(affix))
    text = kSuffix ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size());
  return runtime.text(std::string(text), text_of(self).markup);
}

Result<Value> replace(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("replace", args, {"old", "new", "count"}, 2));
  GH_ASSIGN(const std::string_view from, text_arg(bound[0], "replace"));
  GH_ASSIGN(const std::string_view to, text_arg(bound[1], "replace"));
  int64_t left = -1;
  if (bound[2] && !read_integer(*bound[2], left)) return misuse(*bound[2], "the count of replace");
  std::string_view text = text_of(self).view();
  GH_TRY(runtime.spend(text.size() / 16));
  TextOut out = runtime.text_out();
  if (from.empty()) {
    // Before every character and at the end.
    for (const std::string_view one : split_chars(text)) {
      if (left != 0) out.add(to);
      left -= left > 0 ? 1 : 0;
      out.add(one);
    }
    if (left != 0) out.add(to);
    return runtime.text(std::move(out), text_of(self).markup);
  }
  for (size_t at; left != 0 && !out.full() && (at = text.find(from)) != std::string_view::npos; --left) {
    out.add(text.substr(0, at));
    out.add(to);
    text.remove_prefix(at + from.size());
  }
  out.add(text);
  return runtime.text(std::move(out), text_of(self).markup);
}

// The code point where a part begins, -1 when it is not there.
template <bool kFromRight, bool kMustExist>
Result<Value> find(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("find", args, {"sub"}, 1));
  GH_ASSIGN(const std::string_view part, text_arg(bound[0], "find"));
  const std::string_view text = text_of(self).view();
  GH_TRY(runtime.spend(text.size() / 16));
  const size_t at = kFromRight ? text.rfind(part) : text.find(part);
  if (at == std::string_view::npos)
    return kMustExist ? Result<Value>(failure("index finds no such part")) : Value{int64_t{-1}};
  return Value{num_chars(text.substr(0, at))};
}

Result<Value> count(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("count", args, {"sub"}, 1));
  GH_ASSIGN(const std::string_view part, text_arg(bound[0], "count"));
  std::string_view text = text_of(self).view();
  GH_TRY(runtime.spend(text.size() / 16));
  if (part.empty()) return Value{num_chars(text) + 1};
  int64_t found = 0;
  for (size_t at; (at = text.find(part)) != std::string_view::npos; ++found)
    text.remove_prefix(at + part.size());
  return Value{found};
}

Result<Value> join(Runtime& runtime, const Value& self, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("join", args, {"items"}, 1));
  if (bound[0]->is<Undefined>()) return runtime.text("");
  const SequencePtr* sequence = bound[0]->as<SequencePtr>();
  for (const Value& item : sequence != nullptr ? (*sequence)->items : std::vector<Value>())
    if (!item.is<Text>()) return misuse(item, "a text's join");
  return find_filter("join")->apply(runtime, *bound[0], {{self}, {}});
}

constexpr MethodEntry kMethods[] = {
    {"split", parts<false>},
    {"rsplit", parts<true>},
    {"splitlines", lines},
    {"strip", stripped<true, true>},
    {"lstrip", stripped<true, false>},
    {"rstrip", stripped<false, true>},
    {"startswith", fits<false>},
    {"endswith", fits<true>},
    {"removeprefix", without_affix<false>},
    {"removesuffix", without_affix<true>},
    {"replace", replace},
    {"find", find<false, false>},
    {"rfind", find<true, false>},
    {"index", find<false, true>},
    {"count", count},
    {"join", join},
    {"upper", changed<upper>},
    {"lower", changed<lower>},
    {"capitalize", changed<capitalize>},
    {"title", changed<title_letters>},
    {"isupper", asks<is_upper>},
    {"islower", asks<is_lower>},
    {"isalpha", asks<is_alpha>},
    {"isdigit", asks<is_digits>},
    {"isspace", asks<is_space>},
};

}  // namespace

const MethodEntry* find_text_method(std::string_view name) { return find_entry(kMethods, name); }

}  // namespace guildhall::jinja
