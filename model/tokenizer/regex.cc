#include "model/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <optional>

#include "base/check.h"
#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

PCRE2_SPTR as_pcre2(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

// What one thread needs to search, whatever the pattern: room for one match, and the context that bounds it.
struct Scratch {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  Scratch() { GH_CHECK(match != nullptr && context != nullptr); }
  ~Scratch() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
  }
};

Scratch& scratch() {
  thread_local Scratch instance;
  return instance;
}

// One walk over a text. Keeps what find_all's bound needs.
class Search {
 public:
  Search(const pcre2_code* code, std::string_view text) : code_(code), text_(text), scratch_(scratch()) {}

  // The first match that begins at or after `from`; none at the end or when a limit is hit.
  std::optional<ByteSpan> next(size_t from) {
    while (true) {
      const size_t window_end = end_of_window(from, Regex::kWindowBytes);
      const bool last = window_end == text_.size();
      const int found = match({from, window_end}, PCRE2_UNSET, last ? 0 : PCRE2_PARTIAL_HARD);
      if (found > 0) return span();
      if (found == PCRE2_ERROR_NOMATCH) {
        if (last) return std::nullopt;
        from = window_end;
        continue;
      }
      if (found != PCRE2_ERROR_PARTIAL) return std::nullopt;
      // The attempt at `start` ran into the window's end: repeat that one attempt with more in sight.
      const size_t start = span().begin;
      const int widened = match_at(start);
      if (widened > 0) return span();
      if (widened != PCRE2_ERROR_NOMATCH || start == text_.size()) return std::nullopt;
      from = start + next_utf8(text_.substr(start)).length;
    }
  }

 private:
  // Tries `start` alone, in windows that double until the attempt stays within one.
  int match_at(size_t start) {
    for (size_t window = 2 * Regex::kWindowBytes;; window *= 2) {
      const size_t end = end_of_window(start, window);
      const int found = match({start, end}, start, end == text_.size() ? 0 : PCRE2_PARTIAL_HARD);
      if (found > 0) return found;
      wasted_bytes_ += end - start;
      if (wasted_bytes_ > Regex::kMaxWastedBytes) return PCRE2_ERROR_MATCHLIMIT;
      if (found != PCRE2_ERROR_PARTIAL) return found;
    }
  }

  // Searches text[0, range.end) from range.begin on, for a match that begins no later than last_start.
  int match(ByteSpan range, size_t last_start, uint32_t options) {
    pcre2_set_offset_limit(scratch_.context, last_start);
    options |= PCRE2_NO_UTF_CHECK;
    const int found = pcre2_match(code_, as_pcre2(text_), range.end, range.begin, options, scratch_.match,
                                  scratch_.context);
    if (found != PCRE2_ERROR_JIT_STACKLIMIT) return found;
    return pcre2_match(code_, as_pcre2(text_), range.end, range.begin, options | PCRE2_NO_JIT, scratch_.match,
                       scratch_.context);
  }

  ByteSpan span() const {
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch_.match);
    return {offsets[0], offsets[1]};
  }

  size_t end_of_window(size_t from, size_t window) const {
    if (text_.size() - from <= window) return text_.size();
    size_t end = from + window;
    while (is_continuation_byte(text_[end])) --end;
    return end;
  }

  const pcre2_code* code_;
  std::string_view text_;
  Scratch& scratch_;
  size_t wasted_bytes_ = 0;
};

}  // namespace

void Regex::Free::operator()(pcre2_code* code) const { pcre2_code_free(code); }

Result<Regex> Regex::compile(std::string_view pattern) {
  GH_ASSIGN(const std::string translated, onig_to_pcre2(pattern));
  // Ruby's ^ and $ match at every line.
  return compile_pcre2(translated, PCRE2_UCP | PCRE2_MULTILINE);
}

Result<Regex> Regex::literal(std::string_view text) { return compile_pcre2(text, PCRE2_LITERAL); }

Result<Regex> Regex::compile_pcre2(std::string_view pattern, uint32_t options) {
  static pcre2_compile_context* const context = [] {
    pcre2_compile_context* made = pcre2_compile_context_create(nullptr);
    GH_CHECK(made != nullptr);
    pcre2_set_newline(made, PCRE2_NEWLINE_LF);
    return made;
  }();
  int error = 0;
  PCRE2_SIZE at = 0;
  Regex regex;
  regex.code_.reset(pcre2_compile(as_pcre2(pattern), pattern.size(),
                                  options | PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT, &error, &at, context));
  if (!regex.code_) {
    PCRE2_UCHAR reason[256];
    pcre2_get_error_message(error, reason, sizeof reason);
    return Status{Code::invalid_argument, fmt::format("pattern '{}': {} (at byte {} of '{}')", pattern,
                                                      reinterpret_cast<const char*>(reason), at, pattern)};
  }
  // Where just-in-time code is not allowed, pcre2_match interprets.
  pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
  return regex;
}

bool Regex::is_script(std::string_view name) {
  return compile_pcre2(fmt::format("\\p{{sc:{}}}", name), 0).has_value();
}

void Regex::find_all(std::string_view text, std::vector<ByteSpan>& matches) const {
  matches.clear();
  Search search(code_.get(), text);
  size_t from = 0;
  std::optional<size_t> last_end;
  while (from <= text.size()) {
    const std::optional<ByteSpan> found = search.next(from);
    if (!found) return;
    if (found->begin == found->end && last_end == found->end) {
      from = found->end + std::max<size_t>(1, next_utf8(text.substr(found->end)).length);
      continue;
    }
    matches.push_back(*found);
    from = found->end;
    last_end = found->end;
  }
}

std::string Regex::replace_all(std::string_view text, std::string_view content) const {
  std::vector<ByteSpan> matches;
  find_all(text, matches);
  std::string out;
  size_t done = 0;
  for (const ByteSpan& match : matches) {
    out.append(text.substr(done, match.begin - done)).append(content);
    done = match.end;
  }
  out.append(text.substr(done));
  return out;
}

}  // namespace guildhall
