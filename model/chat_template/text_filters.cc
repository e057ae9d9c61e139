// text_filters.cc: filters whose result is one value: texts, numbers, JSON.
#include <charconv>
#include <cmath>

#include "model/chat_template/builtins.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/print.h"
#include "model/chat_template/python_text.h"

namespace guildhall::jinja {
namespace {

// The subject as text, with its markup.
struct Subject {
  Value value;
  std::string_view view() const { return value.as<Text>()->view(); }
  bool markup() const { return value.as<Text>()->markup; }
};
Result<Subject> subject_text(Runtime& runtime, const Value& value) {
  GH_ASSIGN(Value text, to_text(runtime, value));
  GH_TRY(runtime.spend(text.as<Text>()->view().size() / 16));
  return Subject{std::move(text)};
}

template <std::string (*kChange)(std::string_view)>
Result<Value> changed(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("the filter", args, {}));
  GH_ASSIGN(const Subject subject, subject_text(runtime, value));
  return runtime.text(kChange(subject.view()), subject.markup());
}

Result<Value> trim(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("trim", args, {"chars"}));
  GH_ASSIGN(auto chars, optional_text(bound[0], "trim"));
  GH_ASSIGN(const Subject subject, subject_text(runtime, value));
  return runtime.text(std::string(strip_right(strip_left(subject.view(), chars), chars)), subject.markup());
}

Result<Value> string(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("string", args, {}));
  return to_text(runtime, value);
}

Result<Value> safe(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("safe", args, {}));
  GH_ASSIGN(const Value text, to_text(runtime, value));
  return Value{Text{text.as<Text>()->bytes, true}};
}

Result<Value> escape(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("escape", args, {}));
  GH_ASSIGN(const Subject subject, subject_text(runtime, value));
  if (subject.markup()) return subject.value;
  return runtime.text(escape_html(subject.view()), /*markup=*/true);
}

Result<Value> replace(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("replace", args, {"old", "new", "count"}, 2));
  GH_ASSIGN(const Subject subject, subject_text(runtime, value));
  GH_ASSIGN(const Subject from, subject_text(runtime, *bound[0]));
  GH_ASSIGN(const Subject to, subject_text(runtime, *bound[1]));
  Args plain{{from.value, to.value}, {}};
  if (bound[2] && !bound[2]->is<None>()) plain.positional.push_back(*bound[2]);
  return find_text_method("replace")->call(runtime, make_text(std::string(subject.view())), plain);
}

Result<Value> indent(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("indent", args, {"width", "first", "blank"}));
  const Text* text = value.as<Text>();
  if (text == nullptr) return misuse(value, "indent");
  std::string margin(4, ' ');
  int64_t width = 0;
  if (bound[0] && bound[0]->is<Text>())
    margin = bound[0]->as<Text>()->view();
  else if (bound[0] && !read_integer(*bound[0], width))
    return misuse(*bound[0], "the width of indent");
  else if (bound[0])
    margin.assign(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1 << 16)), ' ');
  const bool first = bound[1] && truth(*bound[1]), blank = bound[2] && truth(*bound[2]);
  const std::string ended = std::string(text->view()) + "\n";
  const std::vector<std::string_view> lines = split_lines(ended);
  TextOut out = runtime.text_out();
  for (size_t i = 0; i < lines.size() && !out.full(); ++i) {
    if (i > 0) out.add("\n");
    if (i == 0 ? first : blank || !lines[i].empty()) out.add(margin);
    out.add(lines[i]);
  }
  return runtime.text(std::move(out), text->markup);
}

Result<Value> default_value(Runtime&, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("default", args, {"default_value", "boolean"}));
  const bool by_truth = bound[1] && truth(*bound[1]);
  if (!value.is<Undefined>() && (!by_truth || truth(value))) return value;
  return bound[0] ? *bound[0] : make_text("");
}

Result<Value> length(Runtime& runtime, const Value& value, const Args& args) {
  GH_TRY(bind_args("length", args, {}));
  if (const Text* text = value.as<Text>()) GH_TRY(runtime.spend(text->view().size() / 64));
  GH_ASSIGN(const int64_t count, length_of(value));
  return Value{count};
}

Result<Value> absolute(Runtime&, const Value& value, const Args& args) {
  GH_TRY(bind_args("abs", args, {}));
  Number number;
  if (!read_number(value, number)) return misuse(value, "abs");
  if (number.is_real) return Value{std::abs(number.real)};
  return number.integer < 0 ? negated(value) : Result<Value>(Value{number.integer});
}

// A whole text as a number; white space around it and single underscores between digits are fine.
template <class T>
std::optional<T> parse_number(std::string_view text, auto... format) {
  text = strip_right(strip_left(text, std::nullopt), std::nullopt);
  std::string digits(text);
  for (size_t at; (at = digits.find('_')) != std::string::npos; digits.erase(at, 1))
    if (at == 0 || at + 1 >= digits.size() || !std::isalnum(static_cast<unsigned char>(digits[at - 1])) ||
        !std::isalnum(static_cast<unsigned char>(digits[at + 1])))
      return std::nullopt;
  std::string_view rest = digits;
  if (rest.starts_with('+') && !rest.starts_with("+-")) rest.remove_prefix(1);
  T number{};
  const std::from_chars_result end =
      std::from_chars(rest.data(), rest.data() + rest.size(), number, format...);
  if (end.ec != std::errc() || end.ptr != rest.data() + rest.size()) return std::nullopt;
  return number;
}

std::optional<int64_t> whole(double real) {
  if (!(std::abs(real) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(real);
}

Result<Value> integer(Runtime&, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("int", args, {"default", "base"}));
  int64_t base = 10;
  if (bound[1] && (!read_integer(*bound[1], base) || base < 2 || base > 36))
    return failure("int takes a base from 2 to 36");
  if (value.is<Undefined>()) return misuse(value, "int");
  std::optional<int64_t> result;
  Number number;
  if (read_number(value, number)) {
    result = number.is_real ? whole(number.real) : number.integer;
  } else if (const Text* text = value.as<Text>()) {
    result = parse_number<int64_t>(text->view(), static_cast<int>(base));
    if (!result)
      if (const auto real = parse_number<double>(text->view())) result = whole(*real);
  }
  if (result) return Value{*result};
  return bound[0] ? *bound[0] : Value{int64_t{0}};
}

Result<Value> real(Runtime&, const Value& value, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("float", args, {"default"}));
  if (value.is<Undefined>()) return misuse(value, "float");
  Number number;
  if (read_number(value, number)) return Value{number.as_real()};
  if (const Text* text = value.as<Text>())
    if (const auto parsed = parse_number<double>(text->view())) return Value{*parsed};
  return bound[0] ? *bound[0] : Value{0.0};
}

Result<JsonStyle> json_style(const Args& args) {
  GH_ASSIGN(auto bound, bind_args("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = bound[0] && truth(*bound[0]);
  style.sort_keys = bound[3] && truth(*bound[3]);
  if (bound[1] && !bound[1]->is<None>()) {
    int64_t width = 0;
    if (const Text* text = bound[1]->as<Text>())
      style.indent = text->view();
    else if (read_integer(*bound[1], width))
      style.indent = std::string(static_cast<size_t>(std::clamp<int64_t>(width, 0, 1 << 16)), ' ');
    else
      return misuse(*bound[1], "the indent of tojson");
    style.item_separator = ",";
  }
  if (bound[2] && !bound[2]->is<None>()) {
    const SequencePtr* pair = bound[2]->as<SequencePtr>();
    if (pair == nullptr || (*pair)->items.size() != 2 || !(*pair)->items[0].is<Text>() ||
        !(*pair)->items[1].is<Text>())
      return failure("tojson takes two texts as separators: (', ', ': ')");
    style.item_separator = (*pair)->items[0].as<Text>()->view();
    style.key_separator = (*pair)->items[1].as<Text>()->view();
  }
  return style;
}

Result<Value> tojson(Runtime& runtime, const Value& value, const Args& args) {
  GH_ASSIGN(const JsonStyle style, json_style(args));
  TextOut out = runtime.text_out();
  GH_TRY(print_json(value, style, out));
  return runtime.text(std::move(out));
}

constexpr FilterEntry kFilters[] = {
    {"tojson", tojson},
    {"length", length},
    {"count", length},
    {"trim", trim},
    {"string", string},
    {"safe", safe},
    {"escape", escape},
    {"e", escape},
    {"upper", changed<upper>},
    {"lower", changed<lower>},
    {"title", changed<title>},
    {"capitalize", changed<capitalize>},
    {"replace", replace},
    {"indent", indent},
    {"default", default_value},
    {"d", default_value},
    {"abs", absolute},
    {"int", integer},
    {"float", real},
};

}  // namespace

const FilterEntry* find_text_filter(std::string_view name) { return find_entry(kFilters, name); }

Result<std::optional<std::string_view>> optional_text(const std::optional<Value>& value,
                                                      std::string_view callee) {
  if (!value || value->is<None>()) return std::optional<std::string_view>();
  if (const Text* text = value->as<Text>()) return std::optional<std::string_view>(text->view());
  return misuse(*value, callee);
}

}  // namespace guildhall::jinja
