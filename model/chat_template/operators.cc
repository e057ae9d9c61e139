#include "model/chat_template/operators.h"

#include <algorithm>
#include <cmath>

#include "model/chat_template/print.h"
#include "model/chat_template/python_text.h"

namespace guildhall::jinja {
namespace {

bool numbers_equal(const Number& a, const Number& b) {
  if (!a.is_real && !b.is_real) return a.integer == b.integer;
  return a.as_real() == b.as_real();
}

bool numbers_less(const Number& a, const Number& b) {
  if (!a.is_real && !b.is_real) return a.integer < b.integer;
  return a.as_real() < b.as_real();
}

Status too_large(std::string_view op) {
  return failure(fmt::format("the result of {} does not fit 64 bits", op));
}

Result<Value> real_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value{a + b};
  if (op == "-") return Value{a - b};
  if (op == "*") return Value{a * b};
  if (op == "**") {
    const double power = std::pow(a, b);
    if (!std::isfinite(power)) return too_large(op);
    return Value{power};
  }
  if (b == 0) return failure("division by zero");
  if (op == "/") return Value{a / b};
  // Python's remainder has the sign of the divisor.
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == "%") return Value{remainder == 0 ? std::copysign(0.0, b) : remainder};
  const double quotient = (a - remainder) / b;
  return Value{quotient == 0 ? std::copysign(0.0, a / b) : std::floor(quotient + 0.5)};
}

Result<Value> integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return failure("division by zero");
    return Value{std::pow(static_cast<double>(base), static_cast<double>(exponent))};
  }
  int64_t power = 1;
  if (base == 0 || base == 1) return Value{exponent == 0 ? power : base};
  if (base == -1) return Value{exponent % 2 == 0 ? power : base};
  for (; exponent > 0; --exponent)
    if (__builtin_mul_overflow(power, base, &power)) return too_large("**");
  return Value{power};
}

Result<Value> integer_arithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+" || op == "-" || op == "*") {
    const bool over = op == "+"   ? __builtin_add_overflow(a, b, &result)
                      : op == "-" ? __builtin_sub_overflow(a, b, &result)
                                  : __builtin_mul_overflow(a, b, &result);
    if (over) return too_large(op);
    return Value{result};
  }
  if (op == "**") return integer_power(a, b);
  if (b == 0) return failure("division by zero");
  if (op == "/") return Value{static_cast<double>(a) / static_cast<double>(b)};
  if (b == -1) {
    if (op == "%") return Value{int64_t{0}};
    if (__builtin_sub_overflow(int64_t{0}, a, &result)) return too_large(op);
    return Value{result};
  }
  int64_t quotient = a / b, remainder = a % b;
  if (remainder != 0 && (remainder < 0) != (b < 0)) {
    --quotient;
    remainder += b;
  }
  return Value{op == "%" ? remainder : quotient};
}

// Markup escapes what is added to it.
Result<Value> add_texts(Runtime& runtime, const Text& a, const Text& b) {
  TextOut out = runtime.text_out();
  const bool markup = a.markup || b.markup;
  out.add(markup && !a.markup ? escape_html(a.view()) : a.view());
  out.add(markup && !b.markup ? escape_html(b.view()) : b.view());
  return runtime.text(std::move(out), markup);
}

Result<Value> repeated(Runtime& runtime, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (const Text* text = value.as<Text>()) {
    TextOut out = runtime.text_out();
    for (int64_t i = 0; i < times && !out.full() && !text->view().empty(); ++i) out.add(text->view());
    return runtime.text(std::move(out), text->markup);
  }
  const Sequence& sequence = **value.as<SequencePtr>();
  std::vector<Value> items;
  for (int64_t i = 0; i < times && !sequence.items.empty(); ++i) {
    GH_TRY(runtime.spend(sequence.items.size()));
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return runtime.sequence(std::move(items), sequence.kind);
}

bool can_repeat(const Value& value) { return value.is<Text>() || value.is_list() || value.is_tuple(); }

// text % values, with %s, %r, %d, %i and %%.
Result<Value> format_text(Runtime& runtime, const Text& format, const Value& values) {
  std::vector<Value> items{values};
  if (values.is_tuple()) items = (*values.as<SequencePtr>())->items;
  TextOut out = runtime.text_out();
  size_t next = 0;
  const std::string_view text = format.view();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.add(text.substr(i, 1));
      continue;
    }
    const char kind = ++i < text.size() ? text[i] : '\0';
    if (kind == '%') {
      out.add("%");
      continue;
    }
    if (std::string_view("srdi").find(kind) == std::string_view::npos)
      return failure("a format other than %s, %r, %d, %i or %% is not supported");
    if (next >= items.size()) return failure("not enough values for the format");
    const Value& value = items[next++];
    Number number;
    if (kind == 's') {
      GH_TRY(print(value, out));
    } else if (kind == 'r') {
      GH_TRY(print_repr(value, out));
    } else if (read_number(value, number) && std::abs(number.as_real()) < 9e18) {
      out.add(std::to_string(number.is_real ? static_cast<int64_t>(number.real) : number.integer));
    } else {
      return misuse(value, "%d");
    }
  }
  const bool mapping = values.is<DictPtr>() || values.is_list();
  if (next < items.size() && !mapping) return failure("more values than the format has places for");
  return runtime.text(std::move(out), format.markup);
}

Result<bool> yes_or_no(bool value) { return Result<bool>(boost::system::in_place_value, value); }

// == and < of what may be nested; each pair of values that is looked at is a step.
class Comparer {
 public:
  explicit Comparer(Runtime& runtime) : runtime_(runtime) {}

  Result<bool> equal(const Value& a, const Value& b) {
    GH_TRY(runtime_.spend(1));
    const SequencePtr* sequence = a.as<SequencePtr>();
    if (sequence != nullptr && b.is<SequencePtr>()) return equal(**sequence, **b.as<SequencePtr>());
    const DictPtr* dict = a.as<DictPtr>();
    if (dict != nullptr && b.is<DictPtr>()) return equal(**dict, **b.as<DictPtr>());
    if (a.is<Text>() && b.is<Text>()) GH_TRY(runtime_.spend(a.as<Text>()->view().size() / 64));
    return yes_or_no(same_scalar(a, b));
  }

  Result<bool> less(const Value& a, const Value& b) {
    GH_TRY(runtime_.spend(1));
    Number x, y;
    if (read_number(a, x) && read_number(b, y)) return yes_or_no(numbers_less(x, y));
    if (a.is<Text>() && b.is<Text>()) return yes_or_no(a.as<Text>()->view() < b.as<Text>()->view());
    if ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple()))
      return less(**a.as<SequencePtr>(), **b.as<SequencePtr>());
    if (a.is<Undefined>()) return misuse(a, "<");
    if (b.is<Undefined>()) return misuse(b, "<");
    return failure(fmt::format("{} and {} have no order", type_name(a), type_name(b)));
  }

 private:
  Result<void> deeper() {
    if (++depth_ > kMaxValueDepth)
      return failure(fmt::format("compares values nested deeper than {} levels, the limit", kMaxValueDepth));
    return {};
  }

  Result<bool> equal(const Sequence& a, const Sequence& b) {
    if (&a == &b) return yes_or_no(true);
    if (a.kind != b.kind || !a.is_indexable() || a.items.size() != b.items.size()) return yes_or_no(false);
    GH_TRY(deeper());
    for (size_t i = 0; i < a.items.size(); ++i) {
      GH_ASSIGN(const bool same, equal(a.items[i], b.items[i]));
      if (!same) return yes_or_no(false);
    }
    --depth_;
    return yes_or_no(true);
  }

  Result<bool> equal(const Dict& a, const Dict& b) {
    if (&a == &b) return yes_or_no(true);
    if (a.entries().size() != b.entries().size()) return yes_or_no(false);
    GH_TRY(deeper());
    for (const auto& [key, value] : a.entries()) {
      const Value* other = b.find(key);
      if (other == nullptr) return yes_or_no(false);
      GH_ASSIGN(const bool same, equal(value, *other));
      if (!same) return yes_or_no(false);
    }
    --depth_;
    return yes_or_no(true);
  }

  Result<bool> less(const Sequence& a, const Sequence& b) {
    GH_TRY(deeper());
    const size_t both = std::min(a.items.size(), b.items.size());
    for (size_t i = 0; i < both; ++i) {
      GH_ASSIGN(const bool same, equal(a.items[i], b.items[i]));
      if (!same) return less(a.items[i], b.items[i]);
    }
    return yes_or_no(a.items.size() < b.items.size());
  }

  Runtime& runtime_;
  int depth_ = 0;
};

}  // namespace

bool same_scalar(const Value& a, const Value& b) {
  Number x, y;
  if (read_number(a, x)) return read_number(b, y) && numbers_equal(x, y);
  if (a.data.index() != b.data.index()) return false;
  if (const Text* text = a.as<Text>()) return text->view() == b.as<Text>()->view();
  if (const NamespacePtr* attributes = a.as<NamespacePtr>()) return *attributes == *b.as<NamespacePtr>();
  if (const LoopPtr* loop = a.as<LoopPtr>()) return *loop == *b.as<LoopPtr>();
  if (const Callable* callable = a.as<Callable>())
    return callable->function == b.as<Callable>()->function && callable->macro == b.as<Callable>()->macro &&
           callable->method == b.as<Callable>()->method && callable->self == b.as<Callable>()->self;
  return !a.is<SequencePtr>() && !a.is<DictPtr>();  // none and none, undefined and undefined
}

Result<bool> equal(Runtime& runtime, const Value& a, const Value& b) { return Comparer(runtime).equal(a, b); }
Result<bool> less(Runtime& runtime, const Value& a, const Value& b) { return Comparer(runtime).less(a, b); }

Result<bool> contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is<Undefined>()) return yes_or_no(false);
  if (const Text* text = container.as<Text>()) {
    const Text* part = item.as<Text>();
    if (part == nullptr) return misuse(item, "'in' a text");
    GH_TRY(runtime.spend(text->view().size() / 64));
    return yes_or_no(text->view().find(part->view()) != std::string_view::npos);
  }
  if (const DictPtr* dict = container.as<DictPtr>()) {
    if (!is_hashable(item)) return misuse(item, "'in' a dict");
    if (!item.is<Text>()) GH_TRY(runtime.spend((*dict)->entries().size()));
    return yes_or_no((*dict)->find(item) != nullptr);
  }
  const SequencePtr* sequence = container.as<SequencePtr>();
  if (sequence == nullptr) return misuse(container, "'in'");
  if ((*sequence)->kind == Sequence::Kind::generator && std::exchange((*sequence)->consumed, true))
    return yes_or_no(false);
  for (const Value& each : (*sequence)->items) {
    GH_ASSIGN(const bool same, equal(runtime, each, item));
    if (same) return yes_or_no(true);
  }
  return yes_or_no(false);
}

Result<bool> compare(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (op == "==" || op == "!=") {
    GH_ASSIGN(const bool same, equal(runtime, a, b));
    return yes_or_no(same == (op == "=="));
  }
  if (op == "in" || op == "not in") {
    GH_ASSIGN(const bool found, contains(runtime, b, a));
    return yes_or_no(found == (op == "in"));
  }
  const bool swapped = op == ">" || op == "<=";
  GH_ASSIGN(const bool is_less, swapped ? less(runtime, b, a) : less(runtime, a, b));
  if (op == "<" || op == ">") return yes_or_no(is_less);
  // NaN is neither less nor equal.
  Number x, y;
  if (read_number(a, x) && read_number(b, y) && (std::isnan(x.as_real()) || std::isnan(y.as_real())))
    return yes_or_no(false);
  return yes_or_no(!is_less);
}

Result<Value> arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  Number x, y;
  if (read_number(a, x) && read_number(b, y))
    return x.is_real || y.is_real ? real_arithmetic(op, x.as_real(), y.as_real())
                                  : integer_arithmetic(op, x.integer, y.integer);
  if (op == "+" && a.is<Text>() && b.is<Text>()) return add_texts(runtime, *a.as<Text>(), *b.as<Text>());
  if (op == "+" && ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple()))) {
    std::vector<Value> items = (*a.as<SequencePtr>())->items;
    const std::vector<Value>& more = (*b.as<SequencePtr>())->items;
    items.insert(items.end(), more.begin(), more.end());
    return runtime.sequence(std::move(items), (*a.as<SequencePtr>())->kind);
  }
  int64_t times = 0;
  if (op == "*" && can_repeat(a) && read_integer(b, times)) return repeated(runtime, a, times);
  if (op == "*" && can_repeat(b) && read_integer(a, times)) return repeated(runtime, b, times);
  if (op == "%" && a.is<Text>() && !b.is<Undefined>()) return format_text(runtime, *a.as<Text>(), b);
  if (a.is<Undefined>()) return misuse(a, op);
  if (b.is<Undefined>()) return misuse(b, op);
  return failure(fmt::format("{} does not work between {} and {}", op, type_name(a), type_name(b)));
}

Result<Value> negated(const Value& value) {
  Number number;
  if (!read_number(value, number)) return misuse(value, "-");
  if (number.is_real) return Value{-number.real};
  return integer_arithmetic("-", 0, number.integer);
}

}  // namespace guildhall::jinja
