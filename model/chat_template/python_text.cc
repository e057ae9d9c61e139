#include "model/chat_template/python_text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/tokenizer/utf8.h"

namespace guildhall::jinja {
namespace {

constexpr bool contains(std::string_view chars, std::string_view one) {
  return chars.find(one) != std::string_view::npos;
}

size_t last_char_length(std::string_view text) {
  size_t length = 1;
  while (length < text.size() && length < 4 && is_continuation_byte(text[text.size() - length])) ++length;
  return length;
}

bool is_stripped(std::string_view character, std::optional<std::string_view> chars) {
  return chars ? contains(*chars, character) : is_python_space(next_utf8(character).code);
}

bool is_letter(char32_t code) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

void append_upper(char32_t code, std::string& out) {
  if (code == 0xDF)
    out += "SS";
  else
    append_utf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code))), out);
}
void append_lower(char32_t code, std::string& out) {
  append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))), out);
}

template <class Append>
std::string mapped(std::string_view text, Append append) {
  std::string out;
  while (!text.empty()) {
    const Utf8Char next = next_utf8(text);
    append(next.code, out);
    text.remove_prefix(next.length);
  }
  return out;
}

template <class Good>
bool all_chars(std::string_view text, Good good) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const Utf8Char next = next_utf8(text);
    if (!good(next.code)) return false;
    text.remove_prefix(next.length);
  }
  return true;
}

bool has_case(std::string_view text, bool upper_wanted) {
  bool any = false;
  while (!text.empty()) {
    const Utf8Char next = next_utf8(text);
    const auto code = static_cast<utf8proc_int32_t>(next.code);
    const bool is_up = utf8proc_tolower(code) != code, is_low = utf8proc_toupper(code) != code;
    if (upper_wanted ? is_low : is_up) return false;
    any = any || is_up || is_low;
    text.remove_prefix(next.length);
  }
  return any;
}

// Where white space begins or ends.
size_t space_end(std::string_view text) { return text.size() - strip_left(text, std::nullopt).size(); }
size_t word_end(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const Utf8Char next = next_utf8(text.substr(end));
    if (is_python_space(next.code)) break;
    end += next.length;
  }
  return end;
}
size_t word_begin(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const size_t length = last_char_length(text.substr(0, begin));
    if (is_python_space(next_utf8(text.substr(begin - length)).code)) break;
    begin -= length;
  }
  return begin;
}

}  // namespace

bool is_python_space(char32_t code) { return is_white_space(code) || (code >= 0x1C && code <= 0x1F); }

int64_t num_chars(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return !is_continuation_byte(byte); });
}

std::vector<std::string_view> split_chars(std::string_view text) {
  std::vector<std::string_view> chars;
  while (!text.empty()) {
    const size_t length = next_utf8(text).length;
    chars.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return chars;
}

std::string_view strip_left(std::string_view text, std::optional<std::string_view> chars) {
  while (!text.empty()) {
    const size_t length = next_utf8(text).length;
    if (!is_stripped(text.substr(0, length), chars)) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view strip_right(std::string_view text, std::optional<std::string_view> chars) {
  while (!text.empty()) {
    const size_t length = last_char_length(text);
    if (!is_stripped(text.substr(text.size() - length), chars)) break;
    text.remove_suffix(length);
  }
  return text;
}

std::vector<std::string_view> split(std::string_view text, const SplitRule& rule) {
  std::vector<std::string_view> parts;
  const auto more = [&] {
    return rule.max_splits < 0 || static_cast<int64_t>(parts.size()) < rule.max_splits;
  };
  if (rule.separator) {
    for (size_t at; more() && (at = text.find(*rule.separator)) != std::string_view::npos;) {
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + rule.separator->size());
    }
    parts.push_back(text);
    return parts;
  }
  for (text.remove_prefix(space_end(text)); !text.empty() && more(); text.remove_prefix(space_end(text))) {
    const size_t end = word_end(text);
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  if (!text.empty()) parts.push_back(strip_right(text, std::nullopt));
  return parts;
}

std::vector<std::string_view> split_from_right(std::string_view text, const SplitRule& rule) {
  std::vector<std::string_view> parts;
  const auto more = [&] {
    return rule.max_splits < 0 || static_cast<int64_t>(parts.size()) < rule.max_splits;
  };
  if (rule.separator) {
    for (size_t at; more() && (at = text.rfind(*rule.separator)) != std::string_view::npos;) {
      parts.push_back(text.substr(at + rule.separator->size()));
      text = text.substr(0, at);
    }
    parts.push_back(text);
  } else {
    for (text = strip_right(text, std::nullopt); !text.empty() && more();
         text = strip_right(text, std::nullopt)) {
      const size_t begin = word_begin(text);
      parts.push_back(text.substr(begin));
      text = text.substr(0, begin);
    }
    if (!text.empty()) parts.push_back(strip_left(text, std::nullopt));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    const Utf8Char next = next_utf8(text.substr(at));
    const bool ends = (next.code >= 0x0A && next.code <= 0x0D) || (next.code >= 0x1C && next.code <= 0x1E) ||
                      next.code == 0x85 || next.code == 0x2028 || next.code == 0x2029;
    const size_t end = at;
    at += next.length;
    if (!ends) continue;
    lines.push_back(text.substr(begin, end - begin));
    if (next.code == '\r' && at < text.size() && text[at] == '\n') ++at;
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string upper(std::string_view text) { return mapped(text, append_upper); }
std::string lower(std::string_view text) { return mapped(text, append_lower); }

std::string capitalize(std::string_view text) {
  const size_t first = next_utf8(text).length;
  return upper(text.substr(0, first)) + lower(text.substr(first));
}

std::string title(std::string_view text) {
  bool begins = true;
  return mapped(text, [&](char32_t code, std::string& out) {
    const bool separates =
        is_python_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
    if (begins)
      append_upper(code, out);
    else
      append_lower(code, out);
    begins = separates;
  });
}

std::string title_letters(std::string_view text) {
  bool begins = true;
  return mapped(text, [&](char32_t code, std::string& out) {
    if (begins)
      append_upper(code, out);
    else
      append_lower(code, out);
    begins = !is_letter(code);
  });
}

bool is_upper(std::string_view text) { return has_case(text, true); }
bool is_lower(std::string_view text) { return has_case(text, false); }
bool is_alpha(std::string_view text) { return all_chars(text, is_letter); }
bool is_digits(std::string_view text) {
  return all_chars(text, [](char32_t code) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(code)) == UTF8PROC_CATEGORY_ND;
  });
}

std::string repr_text(std::string_view text) {
  const char quote = contains(text, "'") && !contains(text, "\"") ? '"' : '\'';
  std::string out(1, quote);
  while (!text.empty()) {
    const Utf8Char next = next_utf8(text);
    const auto code = static_cast<uint32_t>(next.code);
    const std::string_view bytes = text.substr(0, next.length);
    text.remove_prefix(next.length);
    const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
    const bool hidden = category == UTF8PROC_CATEGORY_CN || (category >= UTF8PROC_CATEGORY_ZS && code != ' ');
    if (code == static_cast<uint32_t>(quote) || code == '\\')
      out += '\\', out += static_cast<char>(code);
    else if (code == '\n')
      out += "\\n";
    else if (code == '\r')
      out += "\\r";
    else if (code == '\t')
      out += "\\t";
    else if (!hidden)
      out += bytes;
    else if (code < 0x100)
      out += fmt::format("\\x{:02x}", code);
    else if (code < 0x10000)
      out += fmt::format("\\u{:04x}", code);
    else
      out += fmt::format("\\U{:08x}", code);
  }
  return out += quote;
}

std::string repr_real(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const std::to_chars_result end =
      std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific);
  std::string_view shortest(buffer, static_cast<size_t>(end.ptr - buffer));
  const std::string sign = shortest.starts_with('-') ? "-" : "";
  shortest.remove_prefix(sign.size());
  const size_t e = shortest.find('e');
  std::string digits(shortest.substr(0, e));
  std::erase(digits, '.');
  int exponent = 0;
  const std::string_view written = shortest.substr(e + (shortest[e + 1] == '+' ? 2 : 1));
  std::from_chars(written.data(), written.data() + written.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    if (digits.size() > 1) digits.insert(1, ".");
    return fmt::format("{}{}e{}{:02}", sign, digits, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return fmt::format("{}0.{}{}", sign, std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  const auto point = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= point)
    return fmt::format("{}{}{}.0", sign, digits, std::string(point - digits.size(), '0'));
  return sign + digits.substr(0, point) + "." + digits.substr(point);
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

namespace {

// `count` hexadecimal digits at the start of `text`.
std::optional<uint32_t> hex_digits(std::string_view text, size_t count) {
  uint32_t code = 0;
  if (text.size() < count) return std::nullopt;
  const std::from_chars_result end = std::from_chars(text.data(), text.data() + count, code, 16);
  if (end.ec != std::errc() || end.ptr != text.data() + count) return std::nullopt;
  return code;
}

// One escape, from its backslash on: what it stands for and how long it is.
std::optional<size_t> unescape_one(std::string_view text, std::string& out) {
  constexpr std::string_view kNames = "abfnrtv\\'\"", kCodes = "\a\b\f\n\r\t\v\\'\"";
  const char c = text[1];
  if (const size_t at = kNames.find(c); at != std::string_view::npos) {
    out += kCodes[at];
    return 2;
  }
  if (c == '\n') return 2;
  if (c >= '0' && c <= '7') {
    size_t length = 1;
    uint32_t code = 0;
    for (; length < 4 && length < text.size() && text[length] >= '0' && text[length] <= '7'; ++length)
      code = code * 8 + static_cast<uint32_t>(text[length] - '0');
    append_utf8(code, out);
    return length;
  }
  if (c == 'x' || c == 'u' || c == 'U') {
    const size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
    const std::optional<uint32_t> code = hex_digits(text.substr(2), count);
    if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code <= 0xDFFF)) return std::nullopt;
    append_utf8(*code, out);
    return 2 + count;
  }
  if (c == 'N') return std::nullopt;  // characters by name: no template needs the table
  out += '\\';                        // no escape: both characters stand for themselves
  return 1;
}

}  // namespace

std::optional<std::string> unescape(std::string_view literal) {
  std::string out;
  while (!literal.empty()) {
    if (literal[0] != '\\' || literal.size() == 1) {
      out += literal[0];
      literal.remove_prefix(1);
      continue;
    }
    const std::optional<size_t> length = unescape_one(literal, out);
    if (!length) return std::nullopt;
    literal.remove_prefix(*length);
  }
  return out;
}

}  // namespace guildhall::jinja
