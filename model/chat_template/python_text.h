// python_text.h: Python's operations on str, over UTF-8. Positions and counts are code points.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace guildhall::jinja {

// str.isspace for one character: Unicode's White_Space and U+001C..U+001F.
bool is_python_space(char32_t code);

int64_t num_chars(std::string_view text);
std::vector<std::string_view> split_chars(std::string_view text);

// Without `chars`, white space.
std::string_view strip_left(std::string_view text, std::optional<std::string_view> chars);
std::string_view strip_right(std::string_view text, std::optional<std::string_view> chars);

// str.split and str.rsplit. max_splits < 0: no limit. Without a separator, runs of white space separate and
// nothing empty is given. `separator` is not empty.
struct SplitRule {
  std::optional<std::string_view> separator;
  int64_t max_splits = -1;
};
std::vector<std::string_view> split(std::string_view text, const SplitRule& rule);
std::vector<std::string_view> split_from_right(std::string_view text, const SplitRule& rule);
std::vector<std::string_view> split_lines(std::string_view text);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
// The filter title: a word begins after white space, '-' or an opening bracket.
std::string title(std::string_view text);
// str.title: a word is a run of letters.
std::string title_letters(std::string_view text);
// At least one cased character, and none of the other case.
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);
bool is_alpha(std::string_view text);
bool is_digits(std::string_view text);

// A string literal's escapes; nothing when one is malformed.
std::optional<std::string> unescape(std::string_view literal);
// repr(str): quoted, with what cannot be printed escaped.
std::string repr_text(std::string_view text);
// repr(float): the shortest digits that read back, an exponent from 1e16 on and below 1e-4.
std::string repr_real(double number);
std::string escape_html(std::string_view text);

}  // namespace guildhall::jinja
