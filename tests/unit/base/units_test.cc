#include "base/units.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

using namespace std::chrono_literals;

TEST(Units, ReadsSizes) {
  EXPECT_EQ(*parse_bytes("512"), 512);
  EXPECT_EQ(*parse_bytes("4GiB"), 4ll << 30);
  EXPECT_EQ(*parse_bytes("1.5KiB"), 1536);
  EXPECT_EQ(*parse_bytes("2 MB"), 2'000'000);
}

TEST(Units, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "-1", "4Gib", "nan", "1e30TiB", "4GiB "})
    EXPECT_FALSE(parse_bytes(text)) << text;
}

TEST(Units, ReadsTimes) {
  EXPECT_EQ(*parse_duration("250ms"), 250ms);
  EXPECT_EQ(*parse_duration("1.5s"), 1500ms);
  EXPECT_EQ(*parse_duration("10m"), 10min);
}

TEST(Units, RefusesATimeWithoutUnit) {
  EXPECT_FALSE(parse_duration("250"));
  EXPECT_NE(parse_duration("250").error().message.find("250ms"), std::string::npos);
}

TEST(Units, PrintsForPeople) {
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(12), "12 B");
  EXPECT_EQ(format_duration(1250ms), "1.25 s");
  EXPECT_EQ(format_duration(250us), "250 us");
}

}  // namespace
}  // namespace guildhall
