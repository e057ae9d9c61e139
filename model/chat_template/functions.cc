// functions.cc: the names every template has: range, dict, namespace, raise_exception, strftime_now.
#include <ctime>

#include "model/chat_template/builtins.h"
#include "model/chat_template/operators.h"
#include "model/chat_template/print.h"

namespace guildhall::jinja {
namespace {

constexpr size_t kMaxTimeFormatBytes = 1024;

Result<Value> range(Runtime& runtime, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("range", args, {"start", "stop", "step"}, 1));
  if (!args.keywords.empty()) return failure("range takes no names for its arguments");
  int64_t numbers[3] = {0, 0, 1};
  for (size_t i = 0; i < 3; ++i)
    if (bound[i] && !read_integer(*bound[i], numbers[i])) return misuse(*bound[i], "range");
  auto [start, stop, step] = numbers;
  if (!bound[1]) stop = std::exchange(start, 0);
  if (step == 0) return failure("range has the step 0");
  auto made = std::make_shared<Sequence>();
  made->kind = Sequence::Kind::range;
  made->start = start;
  made->stop = stop;
  made->step = step;
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (static_cast<int64_t>(made->items.size()) >= kMaxRangeItems)
      return failure(fmt::format("range makes more than {} items, the limit", kMaxRangeItems));
    made->items.push_back(Value{at});
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  GH_TRY(runtime.spend(made->items.size()));
  return Value{std::move(made)};
}

// The entries of an optional dict, then the named arguments.
Result<std::vector<std::pair<std::string, Value>>> entries_of(const Args& args, std::string_view callee) {
  if (args.positional.size() > 1)
    return failure(fmt::format("{} takes one dict and named arguments", callee));
  std::vector<std::pair<std::string, Value>> entries;
  if (args.positional.size() == 1) {
    const DictPtr* dict = args.positional[0].as<DictPtr>();
    if (dict == nullptr) return misuse(args.positional[0], callee);
    for (const auto& [key, value] : (*dict)->entries()) {
      if (!key.is<Text>()) return misuse(key, fmt::format("a key for {}", callee));
      entries.emplace_back(key.as<Text>()->view(), value);
    }
  }
  entries.insert(entries.end(), args.keywords.begin(), args.keywords.end());
  return entries;
}

Result<Value> dict(Runtime& runtime, const Args& args) {
  GH_ASSIGN(auto entries, entries_of(args, "dict"));
  GH_TRY(runtime.spend(entries.size()));
  auto made = std::make_shared<Dict>();
  for (auto& [name, value] : entries) {
    made->depth = std::max(made->depth, nesting(value) + 1);
    made->set(make_text(name), std::move(value));
  }
  GH_TRY(runtime.check_depth(made->depth));
  return Value{std::move(made)};
}

Result<Value> make_namespace(Runtime& runtime, const Args& args) {
  GH_ASSIGN(auto entries, entries_of(args, "namespace"));
  GH_TRY(runtime.spend(entries.size() + 1));
  auto made = std::make_shared<Namespace>();
  for (auto& [name, value] : entries) {
    if (name.starts_with('_'))
      return failure(fmt::format("a namespace has no attribute {}: none begins with _", name));
    made->attributes.emplace_back(std::move(name), std::move(value));
  }
  runtime.keep(made);
  return Value{std::move(made)};
}

Result<Value> raise_exception(Runtime& runtime, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("raise_exception", args, {"message"}, 1));
  TextOut message = runtime.text_out();
  GH_TRY(print(*bound[0], message));
  runtime.raised = message.take();
  return failure(*runtime.raised);
}

Result<Value> strftime_now(Runtime& runtime, const Args& args) {
  GH_ASSIGN(auto bound, bind_args("strftime_now", args, {"format"}, 1));
  const Text* format = bound[0]->as<Text>();
  if (format == nullptr) return misuse(*bound[0], "strftime_now");
  if (format->view().size() > kMaxTimeFormatBytes)
    return failure(fmt::format("strftime_now takes a format of at most {} bytes", kMaxTimeFormatBytes));
  const std::time_t now = std::chrono::system_clock::to_time_t(runtime.clock());
  std::tm local{};
  localtime_r(&now, &local);
  // The last character tells an empty result from one that does not fit.
  const std::string ended = std::string(format->view()) + ".";
  std::string text(kMaxTimeFormatBytes * 64, '\0');
  const size_t size = std::strftime(text.data(), text.size(), ended.c_str(), &local);
  if (size == 0) return failure("strftime_now takes no such format");
  text.resize(size - 1);
  return runtime.text(std::move(text));
}

constexpr FunctionEntry kFunctions[] = {{"range", range},
                                        {"dict", dict},
                                        {"namespace", make_namespace},
                                        {"raise_exception", raise_exception},
                                        {"strftime_now", strftime_now}};

}  // namespace

const FunctionEntry* find_function(std::string_view name) { return find_entry(kFunctions, name); }

}  // namespace guildhall::jinja
