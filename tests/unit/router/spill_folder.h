// spill_folder.h: a folder for spill files, and a way into one that has no name: through the process's open
// files.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace guildhall {

class SpillFolder {
 public:
  SpillFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "guildhall-spill-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~SpillFolder() { std::filesystem::remove_all(path_); }
  SpillFolder(const SpillFolder&) = delete;
  SpillFolder& operator=(const SpillFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // The one file that was made in it and is open.
  std::filesystem::path open_file() const {
    std::filesystem::path found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code closed_meanwhile;
      const auto target = std::filesystem::read_symlink(entry.path(), closed_meanwhile);
      if (target.string().starts_with(path_.string() + "/")) found = entry.path();
    }
    EXPECT_FALSE(found.empty());
    return found;
  }
  // Turns the byte at this place of the file into another.
  void damage(int64_t at) const {
    std::fstream file(open_file(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char other = static_cast<char>(~file.get());
    file.seekp(at);
    file.put(other);
    EXPECT_TRUE(file.good());
  }

 private:
  std::filesystem::path path_;
};

}  // namespace guildhall
