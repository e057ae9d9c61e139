// byte_level.h: GPT-2's spelling of bytes as printable characters. Bytes 33-126, 161-172 and 174-255 stand
// for themselves; the others are U+0100, U+0101, ... in order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace guildhall {

void append_byte_level(std::string_view bytes, std::string& out);

// The bytes a token spells, or nothing if it holds a character that spells none.
std::optional<std::string> from_byte_level(std::string_view token);

}  // namespace guildhall
