// utf8.h: reading and repairing UTF-8. Repair replaces each maximal bad subsequence with U+FFFD, as Unicode
// advises and as Python's errors="replace" does.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace guildhall {

struct Utf8Char {
  enum class State {
    whole,
    bad,  // no continuation can make these bytes valid
    cut,  // valid so far, but the text ends inside it
  };
  char32_t code = 0xFFFD;  // U+FFFD unless whole
  size_t length = 0;       // bytes it takes; for bad and cut, those one U+FFFD stands for; 0 only at the end
  State state = State::whole;
};

Utf8Char next_utf8(std::string_view text);

void append_utf8(char32_t code, std::string& text);

// Bytes before the first bad or cut sequence; text.size() when all of it is valid.
size_t valid_utf8_length(std::string_view text);

// Appends text with every bad or cut sequence replaced.
void append_lossy(std::string_view text, std::string& out);

// How many of the last bytes (0..3) are a sequence that more bytes could complete.
size_t incomplete_tail_length(std::string_view text);

inline bool is_continuation_byte(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// Unicode's White_Space property.
bool is_white_space(char32_t code);

}  // namespace guildhall
