#include "model/chat_template/print.h"

#include <algorithm>
#include <cmath>

#include "model/chat_template/python_text.h"
#include "model/tokenizer/utf8.h"

namespace guildhall::jinja {
namespace {

// repr() of anything; recursion ends at kMaxValueDepth, which a list that holds itself would pass.
class Printer {
 public:
  explicit Printer(TextOut& out) : out_(out) {}

  Result<void> print(const Value& value) {
    if (++depth_ > kMaxValueDepth + 1)
      return failure(fmt::format("prints values nested deeper than {} levels, the limit", kMaxValueDepth));
    GH_TRY(std::visit([this](const auto& data) { return show(data); }, value.data));
    --depth_;
    return {};
  }

 private:
  Result<void> add(std::string_view text) {
    out_.add(text);
    return {};
  }
  Result<void> show(const Undefined&) { return add("Undefined"); }
  Result<void> show(None) { return add("None"); }
  Result<void> show(bool flag) { return add(flag ? "True" : "False"); }
  Result<void> show(int64_t integer) { return add(std::to_string(integer)); }
  Result<void> show(double real) { return add(repr_real(real)); }
  Result<void> show(const Text& text) {
    return add(text.markup ? fmt::format("Markup({})", repr_text(text.view())) : repr_text(text.view()));
  }

  Result<void> items(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size() && !out_.full(); ++i) {
      if (i > 0) out_.add(", ");
      GH_TRY(print(items[i]));
    }
    return {};
  }

  Result<void> show(const SequencePtr& sequence) {
    switch (sequence->kind) {
      case Sequence::Kind::range:
        return add(sequence->step == 1
                       ? fmt::format("range({}, {})", sequence->start, sequence->stop)
                       : fmt::format("range({}, {}, {})", sequence->start, sequence->stop, sequence->step));
      case Sequence::Kind::generator:
        return failure("prints a filter's result that has no text of its own; add | list or | join");
      case Sequence::Kind::view:
        out_.add(fmt::format("{}([", sequence->view_name));
        GH_TRY(items(sequence->items));
        return add("])");
      case Sequence::Kind::tuple:
        out_.add("(");
        GH_TRY(items(sequence->items));
        return add(sequence->items.size() == 1 ? ",)" : ")");
      case Sequence::Kind::list:
        break;
    }
    out_.add("[");
    GH_TRY(items(sequence->items));
    return add("]");
  }

  Result<void> show(const DictPtr& dict) {
    out_.add("{");
    bool first = true;
    for (const auto& [key, value] : dict->entries()) {
      if (!std::exchange(first, false)) out_.add(", ");
      GH_TRY(print(key));
      out_.add(": ");
      GH_TRY(print(value));
      if (out_.full()) break;
    }
    return add("}");
  }

  Result<void> show(const NamespacePtr& attributes) {
    out_.add("<Namespace {");
    bool first = true;
    for (const auto& [name, value] : attributes->attributes) {
      if (!std::exchange(first, false)) out_.add(", ");
      out_.add(repr_text(name) + ": ");
      GH_TRY(print(value));
    }
    return add("}>");
  }
  Result<void> show(const LoopPtr& loop) {
    return add(fmt::format("<LoopContext {}/{}>", loop->index0 + 1, loop->items.size()));
  }
  Result<void> show(const Callable&) { return failure("prints a function; a call needs parentheses"); }

  TextOut& out_;
  int depth_ = 0;
};

class JsonPrinter {
 public:
  JsonPrinter(const JsonStyle& style, TextOut& out) : style_(style), out_(out) {}

  Result<void> print(const Value& value) {
    if (value.is<None>()) {
      out_.add("null");
    } else if (const bool* flag = value.as<bool>()) {
      out_.add(*flag ? "true" : "false");
    } else if (const int64_t* integer = value.as<int64_t>()) {
      out_.add(std::to_string(*integer));
    } else if (const double* real = value.as<double>()) {
      out_.add(number(*real));
    } else if (const Text* text = value.as<Text>()) {
      quote(text->view());
    } else if (value.is_list() || value.is_tuple()) {
      return list(**value.as<SequencePtr>());
    } else if (const DictPtr* dict = value.as<DictPtr>()) {
      return object(**dict);
    } else {
      return misuse(value, "tojson");
    }
    return {};
  }

 private:
  static std::string number(double real) {
    if (std::isnan(real)) return "NaN";
    if (std::isinf(real)) return real < 0 ? "-Infinity" : "Infinity";
    return repr_real(real);
  }

  void escape(char32_t code) {
    if (code >= 0x10000) {
      const auto offset = static_cast<uint32_t>(code) - 0x10000;
      out_.add(fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (offset >> 10), 0xDC00 + (offset & 0x3FF)));
    } else {
      out_.add(fmt::format("\\u{:04x}", static_cast<uint32_t>(code)));
    }
  }

  void quote(std::string_view text) {
    constexpr std::string_view kShort = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    out_.add("\"");
    while (!text.empty() && !out_.full()) {
      const Utf8Char next = next_utf8(text);
      const size_t at = next.code < 0x80 ? kShort.find(static_cast<char>(next.code)) : std::string_view::npos;
      if (at != std::string_view::npos)
        out_.add(std::string{'\\', kLetters[at]});
      else if (next.code < 0x20 || (style_.ensure_ascii && next.code > 0x7E))
        escape(next.code);
      else
        out_.add(text.substr(0, next.length));
      text.remove_prefix(next.length);
    }
    out_.add("\"");
  }

  void new_line(int depth) {
    if (!style_.indent) return;
    out_.add("\n");
    for (int i = 0; i < depth && !out_.full(); ++i) out_.add(*style_.indent);
  }

  // What stands before an item: a separator after the first, and with an indent a new line.
  void before_item(bool first) {
    if (!first) out_.add(style_.item_separator);
    new_line(depth_);
  }

  Result<void> open(std::string_view bracket) {
    if (++depth_ > kMaxValueDepth)
      return failure(
          fmt::format("tojson meets values nested deeper than {} levels, the limit", kMaxValueDepth));
    out_.add(bracket);
    return {};
  }
  void close(std::string_view bracket) {
    new_line(--depth_);
    out_.add(bracket);
  }

  Result<void> list(const Sequence& list) {
    if (list.items.empty()) {
      out_.add("[]");
      return {};
    }
    GH_TRY(open("["));
    for (size_t i = 0; i < list.items.size() && !out_.full(); ++i) {
      before_item(i == 0);
      GH_TRY(print(list.items[i]));
    }
    close("]");
    return {};
  }

  // Keys of JSON are texts; Python writes numbers, booleans and none as such.
  static Result<std::string> key_text(const Value& key) {
    if (const Text* text = key.as<Text>()) return std::string(text->view());
    if (key.is<None>()) return std::string("null");
    if (const bool* flag = key.as<bool>()) return std::string(*flag ? "true" : "false");
    if (const int64_t* integer = key.as<int64_t>()) return std::to_string(*integer);
    if (const double* real = key.as<double>()) return number(*real);
    return misuse(key, "a key for tojson");
  }

  Result<void> object(const Dict& dict) {
    if (dict.entries().empty()) {
      out_.add("{}");
      return {};
    }
    GH_TRY(open("{"));
    std::vector<std::pair<std::string, const Value*>> entries;
    for (const auto& [key, value] : dict.entries()) {
      if (style_.sort_keys && !key.is<Text>() && dict.entries().size() > 1)
        return failure("tojson(sort_keys=true) needs keys that are texts");
      GH_ASSIGN(std::string text, key_text(key));
      entries.emplace_back(std::move(text), &value);
    }
    if (style_.sort_keys)
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < entries.size() && !out_.full(); ++i) {
      before_item(i == 0);
      quote(entries[i].first);
      out_.add(style_.key_separator);
      GH_TRY(print(*entries[i].second));
    }
    close("}");
    return {};
  }

  const JsonStyle& style_;
  TextOut& out_;
  int depth_ = 0;
};

}  // namespace

Result<void> print_repr(const Value& value, TextOut& out) { return Printer(out).print(value); }

Result<void> print(const Value& value, TextOut& out) {
  if (value.is<Undefined>()) return {};
  if (const Text* text = value.as<Text>()) {
    out.add(text->view());
    return {};
  }
  return print_repr(value, out);
}

Result<Value> to_text(Runtime& runtime, const Value& value) {
  if (value.is<Text>()) return value;
  TextOut out = runtime.text_out();
  GH_TRY(print(value, out));
  return runtime.text(std::move(out));
}

Result<void> print_json(const Value& value, const JsonStyle& style, TextOut& out) {
  return JsonPrinter(style, out).print(value);
}

}  // namespace guildhall::jinja
