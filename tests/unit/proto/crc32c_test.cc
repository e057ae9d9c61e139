#include "proto/crc32c.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string_view>
#include <vector>

namespace guildhall {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c(bytes_of("")), 0u);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283u);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32)), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0xff})), 0x62A8AB43u);
}

TEST(Crc32c, InstructionAndTableAgreeAtEveryLengthAndExtendAlike) {
  std::vector<std::byte> data(73);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 37 + 11);
  for (size_t length = 0; length <= data.size(); ++length) {
    const auto whole = std::span<const std::byte>(data).first(length);
    EXPECT_EQ(crc32c(whole), crc32c_portable(whole)) << length;
    const auto head = whole.first(length / 3), tail = whole.subspan(length / 3);
    EXPECT_EQ(crc32c(tail, crc32c(head)), crc32c(whole)) << length;
  }
}

}  // namespace
}  // namespace guildhall
