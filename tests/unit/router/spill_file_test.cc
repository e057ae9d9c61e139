// spill_file_test.cc: what is written to a slot comes back or is refused, whatever happened to the file.
#include "router/spill_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/router/disk_limit.h"
#include "tests/unit/router/spill_folder.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kPage = 5000, kSlot = 8192, kHeader = 24;

PrefixKey key_of(uint8_t n) {
  PrefixKey key;
  key.bytes.fill(n);
  return key;
}
std::vector<std::byte> page_of(uint8_t n) {
  std::vector<std::byte> page(kPage);
  for (size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(n * 31 + i);
  return page;
}

class SpillFileTest : public ::testing::Test {
 protected:
  void make(int64_t num_slots) { file_ = *SpillFile::create({folder_.path(), num_slots * kSlot, kPage}); }
  Code code_of_reading(int64_t slot, const PrefixKey& key) {
    std::vector<std::byte> page(kPage);
    const Result<void> read = file_->read(slot, key, page);
    return read.has_error() ? read.error().code : Code::internal;
  }

  SpillFolder folder_;
  std::unique_ptr<SpillFile> file_;
};

TEST_F(SpillFileTest, PagesComeBackFromTheirSlots) {
  make(3);
  EXPECT_EQ(file_->num_slots(), 3);
  for (const uint8_t n : {2, 0, 1}) ASSERT_TRUE(file_->write(n, key_of(n), page_of(n)));
  ASSERT_TRUE(file_->write(1, key_of(9), page_of(9)));
  for (const auto& [slot, n] : {std::pair{0, 0}, {1, 9}, {2, 2}}) {
    std::vector<std::byte> page(kPage);
    ASSERT_TRUE(file_->read(slot, key_of(static_cast<uint8_t>(n)), page));
    EXPECT_EQ(page, page_of(static_cast<uint8_t>(n)));
  }
  EXPECT_EQ(code_of_reading(1, key_of(1)), Code::data_loss) << "its slot was given to another";
}

TEST_F(SpillFileTest, NobodyElseCanOpenIt) {
  make(3);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  struct stat found {};
  ASSERT_EQ(stat(folder_.open_file().c_str(), &found), 0);
  EXPECT_EQ(found.st_nlink, 0u);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  EXPECT_EQ(found.st_size, 3 * kSlot);
}

TEST_F(SpillFileTest, ADamagedSlotIsRefused) {
  make(2);
  for (const int64_t at : {int64_t{0}, int64_t{17}, int64_t{20}, kHeader, kHeader + kPage - 1}) {
    ASSERT_TRUE(file_->write(1, key_of(1), page_of(1)));
    EXPECT_EQ(code_of_reading(1, key_of(1)), Code::internal);
    folder_.damage(kSlot + at);
    EXPECT_EQ(code_of_reading(1, key_of(1)), Code::data_loss) << at;
  }
}

TEST_F(SpillFileTest, AShortFileIsRefused) {
  make(2);
  ASSERT_TRUE(file_->write(1, key_of(1), page_of(1)));
  for (const int64_t size : {kSlot + kHeader + kPage - 1, kSlot + 3, kSlot, int64_t{0}}) {
    std::filesystem::resize_file(folder_.open_file(), static_cast<uintmax_t>(size));
    EXPECT_EQ(code_of_reading(1, key_of(1)), Code::data_loss) << size;
  }
}

TEST_F(SpillFileTest, ASlotThatWasNeverWrittenIsRefused) {
  make(2);
  EXPECT_EQ(code_of_reading(0, PrefixKey()), Code::data_loss);
}

TEST_F(SpillFileTest, AFullDiskIsAnErrorOfTheWrite) {
  make(4);
  const DiskLimit full(2 * kSlot);
  EXPECT_TRUE(file_->write(1, key_of(1), page_of(1)));
  const Result<void> written = file_->write(3, key_of(3), page_of(3));
  ASSERT_TRUE(written.has_error());
  EXPECT_EQ(written.error().code, Code::resource_exhausted);
  EXPECT_EQ(code_of_reading(1, key_of(1)), Code::internal) << "what is there can still be read";
}

TEST_F(SpillFileTest, WhatIsGivenUpTakesNoRoom) {
  make(4);
  ASSERT_TRUE(file_->write(3, key_of(3), page_of(3)));
  file_->clear();
  EXPECT_EQ(std::filesystem::file_size(folder_.open_file()), 0u);
  EXPECT_TRUE(file_->write(3, key_of(3), page_of(3)).has_error());
  EXPECT_EQ(code_of_reading(3, key_of(3)), Code::data_loss);
  EXPECT_EQ(std::filesystem::file_size(folder_.open_file()), 0u);
}

TEST_F(SpillFileTest, RefusesWhatCannotBe) {
  const auto refusal = [&](const SpillFileOptions& options) {
    const auto made = SpillFile::create(options);
    return made.has_error() ? made.error() : Status{Code::internal, "made"};
  };
  const Status no_folder = refusal({folder_.path() / "none", 4 * kSlot, kPage});
  EXPECT_EQ(no_folder.code, Code::invalid_argument);
  EXPECT_THAT(no_folder.message, HasSubstr("none: No such file or directory"));
  EXPECT_EQ(SpillFile::check_folder(folder_.path() / "none").error().message, no_folder.message);
  EXPECT_TRUE(SpillFile::check_folder(folder_.path()));
  std::ofstream(folder_.path() / "file") << "x";
  EXPECT_THAT(refusal({folder_.path() / "file", 4 * kSlot, kPage}).message, HasSubstr("Not a directory"));
  const Status too_small = refusal({folder_.path(), kSlot - 1, kPage});
  EXPECT_EQ(too_small.code, Code::resource_exhausted);
  EXPECT_THAT(too_small.message, HasSubstr("what would do: 8.0 KiB"));
  const DiskLimit limit(4 * kSlot - 1);
  EXPECT_THAT(refusal({folder_.path(), 4 * kSlot, kPage}).message, HasSubstr("ulimit -f"));
}

}  // namespace
}  // namespace guildhall
