// page_spill.h: cold pages of the KV cache in a file: what the pool gives up can be read again. Pages that
// nobody holds are written before their memory is needed, as a long prompt needs that of many at once; those
// that could not be written in time are forgotten. Pages go through buffers in host memory, whose number
// bounds what is under way; threads of their own move them to and from the disk (spill_io.h), and no step
// waits for these. When writing fails (a full disk), it is over: nothing is written or found from then on.
// Owner: the engine thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/kv_cache.h"
#include "router/spill_index.h"
#include "router/spill_io.h"
#include "router/swap_policy.h"

namespace guildhall {

struct SpillOptions {
  std::string name;  // of the replica, in logs
  std::filesystem::path folder;
  int64_t size_bytes = 0;     // of the file
  int64_t buffer_bytes = 0;   // of host memory; kMinBuffers pages at least
  bool always_reads = false;  // whatever is measured: for tests and benchmarks
};

class PageSpill final : PagePool::Watcher {
 public:
  static constexpr int64_t kMinBuffers = 4;

  // Borrows the caches, as long as it lives; `wake` is called on any thread when poll() has something to do.
  static Result<std::unique_ptr<PageSpill>> create(SpillOptions options, std::vector<RankCache> cache_r,
                                                   std::function<void()> wake);
  ~PageSpill() override;

  // Takes what the threads have done and gives them more. At each turn of the engine, between steps.
  void poll();
  // Before the step: waits for copies that were enqueued, as their pages may be written to then.
  void end_transfers();

  // ---- reading
  // Its page is in the file, or being read.
  bool has(const PrefixKey& key) const;
  // Whether reading so many pages is expected to take less time than computing them, and how long that takes.
  struct Verdict {
    bool reads = false;
    double compute_ns = 0;  // 0: not measured
  };
  Verdict judge(int64_t position, int64_t num_tokens, int64_t num_pages);
  // These are to be read; each want() is followed by an unwant() of its keys.
  void want(std::span<const PrefixKey> keys);
  void unwant(const PrefixKey& key);
  enum class Progress { under_way, here, over };  // over: taken, or not to be had
  Progress progress(const PrefixKey& key) const;
  // Fills `page` with what is here for the key.
  void take(const PrefixKey& key, int32_t page);
  // These pages were asked for just now.
  void touch(std::span<const PrefixKey> keys) { index_.touch(keys); }

  bool always_reads() const { return options_.always_reads; }
  SwapPolicy& policy() { return policy_; }
  struct Counters {
    // Pages: written, read back, given up without having been written, and read back other than written.
    int64_t written = 0, read = 0, dropped = 0, damaged = 0;
  };
  const Counters& counters() const { return counters_; }
  bool is_on() const { return is_on_; }
  int64_t num_buffers() const { return num_buffers_; }
  int64_t num_slots() const { return is_on_ ? file_->num_slots() : 0; }
  int64_t num_used() const { return index_.num_used(); }
  int64_t page_bytes() const { return page_bytes_; }  // of all ranks together

  // Checks the books against the keys that are wanted: what is wrong, or nothing.
  std::string audit(std::span<const PrefixKey> wanted) const;

 private:
  static constexpr int32_t kNone = -1;
  struct Read {
    int64_t num_wanting = 0;
    enum class State { queued, reading, here, over } state = State::queued;
    int32_t buffer = kNone;                // while reading and here
    std::list<PrefixKey>::iterator place;  // while queued, in queue_
    int64_t ns = 0;                        // that the thread took
  };
  using Reads = std::unordered_map<PrefixKey, Read, PrefixKeyHash>;

  PageSpill(SpillOptions options, std::vector<RankCache> cache_r, std::function<void()> wake,
            std::unique_ptr<SpillFile> file, MemoryBlock memory);
  void on_evict(int32_t page, const PrefixKey& key) override;
  void on_release(const PrefixKey& key) override;
  bool write(int32_t page, const PrefixKey& key);
  void write_ahead();
  void submit_reads();
  void end_write(const SpillIo::Done& done);
  void end_read(const SpillIo::Done& done);
  void turn_off(const Status& why);
  std::span<std::byte> buffer(int32_t i) const;
  int32_t take_buffer();

  const SpillOptions options_;
  const std::vector<RankCache> cache_r_;
  PagePool& pool_;
  const int64_t page_bytes_;
  const std::unique_ptr<SpillFile> file_;
  const MemoryBlock memory_;  // the buffers
  int64_t num_buffers_ = 0;
  std::vector<int32_t> free_buffers_;  // a stack
  int64_t num_writes_ = 0;             // buffers of pages to be written; half of all at most
  // Copies that were enqueued: from the device, to be written to the file then, and to it.
  std::vector<SpillIo::Job> downloads_;
  std::vector<int32_t> uploads_;

  SpillIndex index_;
  // Pages that nobody holds and the file does not have, the coldest in front.
  std::list<PrefixKey> unwritten_;
  std::unordered_map<PrefixKey, std::list<PrefixKey>::iterator, PrefixKeyHash> place_of_;
  Reads reads_;
  std::list<PrefixKey> queue_;  // of reads_
  SwapPolicy policy_;
  Counters counters_;
  bool is_on_ = true;
  SpillIo io_;  // its threads end first
};

}  // namespace guildhall
