#include "model/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct Tables {
  std::array<uint16_t, 256> code_of_byte{};
  std::array<int16_t, 512> byte_of_code{};  // -1: spells no byte
};

constexpr Tables make_tables() {
  Tables tables;
  tables.byte_of_code.fill(-1);
  uint16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const uint16_t code = stands_for_itself(byte) ? static_cast<uint16_t>(byte) : next++;
    tables.code_of_byte[byte] = code;
    tables.byte_of_code[code] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

void append_byte_level(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) append_utf8(kTables.code_of_byte[static_cast<unsigned char>(byte)], out);
}

std::optional<std::string> from_byte_level(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Char next = next_utf8(token);
    token.remove_prefix(next.length);
    if (next.code >= kTables.byte_of_code.size() || kTables.byte_of_code[next.code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kTables.byte_of_code[next.code]));
  }
  return bytes;
}

}  // namespace guildhall
