#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

unsigned byte_at(std::string_view text, size_t idx) { return static_cast<unsigned char>(text[idx]); }

struct Lead {
  size_t length = 0;  // of the whole sequence; 0: cannot lead
  unsigned low = 0x80,
           high = 0xBF;  // bounds of the second byte: no overlong forms, surrogates, or above U+10FFFF
};

Lead classify_lead(unsigned byte) {
  if (byte < 0x80) return {1};
  if (byte >= 0xC2 && byte <= 0xDF) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

}  // namespace

Utf8Char next_utf8(std::string_view text) {
  using State = Utf8Char::State;
  if (text.empty()) return {0xFFFD, 0, State::cut};
  const unsigned first = byte_at(text, 0);
  if (first < 0x80) return {first, 1, State::whole};
  const Lead lead = classify_lead(first);
  if (lead.length == 0) return {0xFFFD, 1, State::bad};
  char32_t code = first & (0x7Fu >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {0xFFFD, i, State::cut};
    const unsigned byte = byte_at(text, i);
    const unsigned low = i == 1 ? lead.low : 0x80;
    const unsigned high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {0xFFFD, i, State::bad};
    code = code << 6 | (byte & 0x3F);
  }
  return {code, lead.length, State::whole};
}

void append_utf8(char32_t code, std::string& text) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

size_t valid_utf8_length(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const Utf8Char next = next_utf8(text.substr(pos));
    if (next.state != Utf8Char::State::whole) break;
    pos += next.length;
  }
  return pos;
}

void append_lossy(std::string_view text, std::string& out) {
  while (true) {
    const size_t valid = valid_utf8_length(text);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) return;
    out.append(kReplacement);
    text.remove_prefix(next_utf8(text).length);
  }
}

size_t incomplete_tail_length(std::string_view text) {
  for (size_t length = 1; length <= 3 && length <= text.size(); ++length) {
    const std::string_view tail = text.substr(text.size() - length);
    if (is_continuation_byte(tail[0])) continue;
    const Utf8Char last = next_utf8(tail);
    return last.state == Utf8Char::State::cut && last.length == length ? length : 0;
  }
  return 0;
}

bool is_white_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

}  // namespace guildhall
