// spill_index.h: which page lies in which slot of a spill file. A new page gets a free slot, or that of the
// page that was not asked for longest. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "router/prefix_key.h"

namespace guildhall {

class SpillIndex {
 public:
  explicit SpillIndex(int64_t num_slots) : num_slots_(num_slots) {}

  // Its page is in the file, or on its way there.
  bool is_known(const PrefixKey& key) const { return entry_of_.contains(key); }
  bool is_written(const PrefixKey& key) const;
  int64_t num_used() const { return static_cast<int64_t>(entry_of_.size()); }

  // The slot for a page that is not known; nullopt: all slots are being read or written.
  std::optional<int64_t> begin_write(const PrefixKey& key);
  void end_write(const PrefixKey& key);
  // The slot of a page that is written; it stays there until end_read().
  int64_t begin_read(const PrefixKey& key);
  void end_read(const PrefixKey& key);
  // These, as far as they are here, were asked for just now. Of one prompt the last blocks go first.
  void touch(std::span<const PrefixKey> keys);
  // Forgets a page that is neither being read nor written.
  void erase(const PrefixKey& key);

  std::string audit() const;  // what is wrong in the books, or nothing

 private:
  struct Entry {
    int64_t slot = 0;
    bool is_written = false, is_busy = true;  // being read or written: not in by_age_
    std::list<PrefixKey>::iterator place;     // in by_age_
  };
  std::optional<int64_t> take_slot();

  int64_t num_slots_;
  int64_t num_begun_ = 0;            // slots that were ever given
  std::vector<int64_t> free_slots_;  // of those
  std::list<PrefixKey> by_age_;      // the longest not asked for in front
  std::unordered_map<PrefixKey, Entry, PrefixKeyHash> entry_of_;
};

}  // namespace guildhall
