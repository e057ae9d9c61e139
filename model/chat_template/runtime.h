// runtime.h: what one render may use and how much is left of it. Everything that makes values goes through
// here, so that no template, however it is written, takes more than its limits.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/chat_template/jinja_template.h"
#include "model/chat_template/value.h"

namespace guildhall::jinja {

// Nested lists and dicts are printed and compared by recursion.
inline constexpr int kMaxValueDepth = 100;
// What range() gives at most; Jinja's sandbox has the same limit.
inline constexpr int64_t kMaxRangeItems = 100'000;

// A text under construction that stops growing at a limit.
class TextOut {
 public:
  explicit TextOut(size_t max_bytes) : max_bytes_(max_bytes) {}
  void add(std::string_view text) {
    full_ = full_ || text.size() > max_bytes_ - bytes_.size();
    if (!full_) bytes_ += text;
  }
  void add_spaces(size_t count) {
    full_ = full_ || count > max_bytes_ - bytes_.size();
    if (!full_) bytes_.append(count, ' ');
  }
  bool full() const { return full_; }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
  size_t max_bytes_;
  bool full_ = false;
};

// One render's. Single-threaded.
struct Runtime {
  explicit Runtime(const TemplateLimits& limits, const TemplateClock& clock) : limits(limits), clock(clock) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // One step is about one node of the template or one item of a list.
  Result<void> spend(size_t steps);
  TextOut text_out() const { return TextOut(limits.max_text_bytes); }
  // A new text; pays for its bytes.
  Result<Value> text(TextOut out, bool markup = false);
  Result<Value> text(std::string bytes, bool markup = false);
  // A new list, tuple or generator; pays for its items.
  Result<Value> sequence(std::vector<Value> items, Sequence::Kind kind = Sequence::Kind::list);
  Result<void> check_depth(int depth) const;

  // What a template changes after it was made can hold itself; the render takes such knots apart at its end.
  void keep(const SequencePtr& list);
  void keep(const NamespacePtr& attributes) { kept_namespaces_.push_back(attributes); }

  const TemplateLimits& limits;
  const TemplateClock& clock;
  std::optional<std::string> raised;  // raise_exception's message, once it was called

 private:
  size_t steps_ = 0;
  std::vector<SequencePtr> kept_lists_;
  std::vector<NamespacePtr> kept_namespaces_;
};

// A call's arguments, evaluated.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

// By Python's rules of calls: one slot per name, empty where nothing was given. The first `num_required` must
// be.
Result<std::vector<std::optional<Value>>> bind_args(std::string_view callee, const Args& args,
                                                    std::initializer_list<std::string_view> names,
                                                    size_t num_required = 0);

// "what went wrong"; the evaluator adds the line.
inline Status failure(std::string message) { return {Code::invalid_argument, std::move(message)}; }
// The error of using what is undefined, or that `doing` does not work with this type.
Status misuse(const Value& value, std::string_view doing);

}  // namespace guildhall::jinja
