// regex.h: patterns of tokenizer.json, on PCRE2. They are written for Oniguruma's Ruby syntax; compile()
// translates what the two read differently and refuses what it cannot, so a pattern never silently means
// something else. Immutable after compiling: any thread may search (scratch memory is per thread).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

struct pcre2_real_code_8;

namespace guildhall {

// Bytes [begin, end) of some text.
struct ByteSpan {
  size_t begin = 0, end = 0;
  bool operator==(const ByteSpan&) const = default;
};

class Regex {
 public:
  // The error's message says what is wrong with the pattern; the caller adds where the pattern stands.
  static Result<Regex> compile(std::string_view pattern);
  // Matches exactly this text.
  static Result<Regex> literal(std::string_view text);

  // Replaces `matches` by all non-overlapping matches in text (valid UTF-8), left to right. An empty match
  // right after another match does not count.
  //
  // Bounded on hostile text: an attempt that fails within kWindowBytes costs little; the bytes that longer
  // failing attempts looked at add up, and when they exceed kMaxWastedBytes, or PCRE2 itself reports a limit,
  // the search ends early and the rest of the text holds no match. (With \s+$ such a text has runs of over a
  // thousand spaces, most of them not at an end of line.)
  void find_all(std::string_view text, std::vector<ByteSpan>& matches) const;

  // The text with `content`, as it stands, in place of every match.
  std::string replace_all(std::string_view text, std::string_view content) const;

  // Whether PCRE2 knows a script of this name ("Han").
  static bool is_script(std::string_view name);

  static constexpr size_t kWindowBytes = 1024;
  static constexpr size_t kMaxWastedBytes = 64 << 20;  // some 0.1 s

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  static Result<Regex> compile_pcre2(std::string_view pattern, uint32_t options);

  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

// The pattern in PCRE2's syntax.
Result<std::string> onig_to_pcre2(std::string_view pattern);

}  // namespace guildhall
