// spill_file.h: a file of equal slots that hold pages of a KV cache. The file has no name: it is unlinked as
// soon as it is open, so that it ends with its process whichever way that ends, and nobody else opens it. In
// a slot a header goes before the page; what is read is checked against it. Any thread, but one at a time for
// a slot.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "base/status.h"
#include "router/prefix_key.h"

namespace guildhall {

struct SpillFileOptions {
  std::filesystem::path folder;
  int64_t size_bytes = 0;  // the file's, at most
  int64_t page_bytes = 0;  // what a slot holds; below 4 GiB
};

class SpillFile {
 public:
  // Takes the whole size on the disk at once, where the file system can promise it. invalid_argument: no file
  // can be made in the folder; resource_exhausted: it has no room, or the size holds no page.
  static Result<std::unique_ptr<SpillFile>> create(const SpillFileOptions& options);
  // Whether create() could make its file there; the error names the folder and what is wrong.
  static Result<void> check_folder(const std::filesystem::path& folder);
  static int64_t num_slots(const SpillFileOptions& options);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  int64_t num_slots() const { return num_slots_; }

  // `page` has page_bytes.
  Result<void> write(int64_t slot, const PrefixKey& key, std::span<const std::byte> page);
  // data_loss when the slot does not hold what was written there under this key; `page` is then anything.
  Result<void> read(int64_t slot, const PrefixKey& key, std::span<std::byte> page);
  // Gives its room on the disk back: what was written is lost, and all that comes fails.
  void clear();

 private:
  SpillFile(int fd, int64_t page_bytes, int64_t num_slots)
      : fd_(fd), page_bytes_(page_bytes), num_slots_(num_slots) {}
  const int fd_;
  const int64_t page_bytes_, num_slots_;
  std::atomic<bool> is_cleared_{false};
};

}  // namespace guildhall
