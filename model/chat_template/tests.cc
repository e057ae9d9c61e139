// tests.cc: what may follow "is".
#include "model/chat_template/builtins.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/print.h"
#include "model/chat_template/python_text.h"

namespace guildhall::jinja {
namespace {

using Answer = Result<bool>;

Answer answer(bool value) { return Answer(boost::system::in_place_value, value); }

template <bool (*kHolds)(const Value&)>
Answer plain(Runtime&, const Value& subject, const Args& args) {
  GH_TRY(bind_args("the test", args, {}));
  return answer(kHolds(subject));
}

bool is_undefined(const Value& value) { return value.is<Undefined>(); }
bool is_defined(const Value& value) { return !value.is<Undefined>(); }
bool is_none(const Value& value) { return value.is<None>(); }
bool is_boolean(const Value& value) { return value.is<bool>(); }
bool is_true(const Value& value) { return value.is<bool>() && *value.as<bool>(); }
bool is_false(const Value& value) { return value.is<bool>() && !*value.as<bool>(); }
bool is_integer(const Value& value) { return value.is<int64_t>(); }
bool is_float(const Value& value) { return value.is<double>(); }
bool is_number(const Value& value) { return is_boolean(value) || is_integer(value) || is_float(value); }
bool is_string(const Value& value) { return value.is<Text>(); }
bool is_mapping(const Value& value) { return value.is<DictPtr>(); }
bool is_iterable(const Value& value) {
  return value.is<Text>() || value.is<SequencePtr>() || value.is<DictPtr>() || value.is<Undefined>() ||
         value.is<LoopPtr>();
}
bool is_sequence(const Value& value) {
  if (const SequencePtr* sequence = value.as<SequencePtr>()) return (*sequence)->is_indexable();
  return value.is<Text>() || value.is<DictPtr>() || value.is<Undefined>();
}
bool is_callable(const Value& value) { return value.is<Callable>(); }
bool is_escaped(const Value& value) { return value.is<Text>() && value.as<Text>()->markup; }

template <bool (*kHolds)(std::string_view)>
Answer of_text(Runtime& runtime, const Value& subject, const Args& args) {
  GH_TRY(bind_args("the test", args, {}));
  GH_ASSIGN(const Value text, to_text(runtime, subject));
  return answer(kHolds(text.as<Text>()->view()));
}

enum class Order { equal, not_equal, less, less_or_equal, greater, greater_or_equal, in };

template <Order kOrder>
Answer ordered(Runtime& runtime, const Value& subject, const Args& args) {
  constexpr std::string_view kOps[] = {"==", "!=", "<", "<=", ">", ">=", "in"};
  GH_ASSIGN(auto bound, bind_args("the test", args, {"other"}, 1));
  return compare(runtime, kOps[static_cast<size_t>(kOrder)], subject, *bound[0]);
}

Answer divisible(Runtime& runtime, const Value& subject, const Value& by) {
  GH_ASSIGN(const Value remainder, arithmetic(runtime, "%", subject, by));
  return equal(runtime, remainder, Value{int64_t{0}});
}
Answer divisibleby(Runtime& runtime, const Value& subject, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("divisibleby", args, {"num"}, 1));
  return divisible(runtime, subject, *bound[0]);
}
Answer even(Runtime& runtime, const Value& subject, const Args& args) {
  GH_TRY(bind_args("even", args, {}));
  return divisible(runtime, subject, Value{int64_t{2}});
}
Answer odd(Runtime& runtime, const Value& subject, const Args& args) {
  GH_TRY(bind_args("odd", args, {}));
  GH_ASSIGN(const Value remainder, arithmetic(runtime, "%", subject, Value{int64_t{2}}));
  return equal(runtime, remainder, Value{int64_t{1}});
}

// The very same object; what is equal, for what has no identity a template could see.
Answer sameas(Runtime&, const Value& subject, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("sameas", args, {"other"}, 1));
  const Value& other = *bound[0];
  if (const SequencePtr* sequence = subject.as<SequencePtr>())
    return answer(other.is<SequencePtr>() && *sequence == *other.as<SequencePtr>());
  if (const DictPtr* dict = subject.as<DictPtr>())
    return answer(other.is<DictPtr>() && *dict == *other.as<DictPtr>());
  return answer(subject.data.index() == other.data.index() && same_scalar(subject, other));
}

Answer is_filter(Runtime&, const Value& subject, const Args& args) {
  GH_TRY(bind_args("filter", args, {}));
  return answer(subject.is<Text>() && find_filter(subject.as<Text>()->view()) != nullptr);
}
Answer is_test(Runtime&, const Value& subject, const Args& args) {
  GH_TRY(bind_args("test", args, {}));
  return answer(subject.is<Text>() && find_test(subject.as<Text>()->view()) != nullptr);
}

constexpr TestEntry kTests[] = {
    {"defined", plain<is_defined>},
    {"undefined", plain<is_undefined>},
    {"none", plain<is_none>},
    {"boolean", plain<is_boolean>},
    {"true", plain<is_true>},
    {"false", plain<is_false>},
    {"integer", plain<is_integer>},
    {"float", plain<is_float>},
    {"number", plain<is_number>},
    {"string", plain<is_string>},
    {"mapping", plain<is_mapping>},
    {"iterable", plain<is_iterable>},
    {"sequence", plain<is_sequence>},
    {"callable", plain<is_callable>},
    {"escaped", plain<is_escaped>},
    {"upper", of_text<is_upper>},
    {"lower", of_text<is_lower>},
    {"eq", ordered<Order::equal>},
    {"equalto", ordered<Order::equal>},
    {"==", ordered<Order::equal>},
    {"ne", ordered<Order::not_equal>},
    {"!=", ordered<Order::not_equal>},
    {"lt", ordered<Order::less>},
    {"lessthan", ordered<Order::less>},
    {"<", ordered<Order::less>},
    {"le", ordered<Order::less_or_equal>},
    {"<=", ordered<Order::less_or_equal>},
    {"gt", ordered<Order::greater>},
    {"greaterthan", ordered<Order::greater>},
    {">", ordered<Order::greater>},
    {"ge", ordered<Order::greater_or_equal>},
    {">=", ordered<Order::greater_or_equal>},
    {"in", ordered<Order::in>},
    {"divisibleby", divisibleby},
    {"even", even},
    {"odd", odd},
    {"sameas", sameas},
    {"filter", is_filter},
    {"test", is_test},
};

}  // namespace

const TestEntry* find_test(std::string_view name) { return find_entry(kTests, name); }

Result<bool> apply_test(Runtime& runtime, std::string_view name, const Value& subject, const Args& args) {
  const TestEntry* test = find_test(name);
  if (test == nullptr) return failure(fmt::format("there is no test named {}", name));
  return test->holds(runtime, subject, args);
}

}  // namespace guildhall::jinja
