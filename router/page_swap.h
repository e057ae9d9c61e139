// page_swap.h: what preempted sequences had in the KV cache, kept in host memory until they run again. Full
// pages that can be found by their keys stay on the device as long as nobody needs their memory; they come
// here when the pool gives them up while a preempted sequence wants them. What has no key (the last page; all
// of them without prefix caching) is copied at once. When the host's memory is full, what finds no room is
// lost, and computed again. Copies are whole when a call returns. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/ops.h"
#include "router/kv_cache.h"
#include "router/sequence.h"
#include "router/swap_policy.h"

namespace guildhall {

class PageSwap final : PagePool::Watcher {
 public:
  // Borrowed. The first cache's pool tells this what it gives up from now on.
  PageSwap(std::vector<RankCache> cache_r, Preemption preemption);
  ~PageSwap() override;
  PageSwap(const PageSwap&) = delete;
  PageSwap& operator=(const PageSwap&) = delete;

  // A sequence is about to be preempted: keeps what it has computed, in sequence.kept. False when computing
  // it again is cheaper, or there is no room.
  bool keep(Sequence& sequence);
  // What was kept for the sequence is not wanted any more.
  void forget(Sequence& sequence);

  // Leading keys whose pages are here.
  int64_t find(std::span<const PrefixKey> keys) const;
  // Copies the pages of these keys, which find() found, and then `slots`, to `pages`.
  void restore(std::span<const PrefixKey> keys, std::span<const int32_t> slots,
               std::span<const int32_t> pages);

  SwapPolicy& policy() { return policy_; }
  int64_t num_slots() const { return num_slots_; }
  int64_t num_used() const { return num_slots_ - static_cast<int64_t>(free_slots_.size()); }
  int64_t bytes_out() const { return bytes_out_; }
  int64_t bytes_in() const { return bytes_in_; }

  // Checks the books against all the sequences that something is kept for; what is wrong, or nothing.
  std::string audit(std::span<const Sequence* const> sequences) const;

 private:
  struct Wanted {
    int64_t num_sequences = 0;
    int32_t slot = kNone;  // kNone: on the device, or lost
  };
  struct Copy {
    int32_t page, slot;
  };
  static constexpr int32_t kNone = -1;

  void on_evict(int32_t page, const PrefixKey& key) override;
  int32_t take_slot();
  void copy(SwapPolicy::Direction direction);

  int64_t page_bytes() const;

  const std::vector<RankCache> cache_r_;
  PagePool& pool_;
  SwapPolicy policy_;
  const int64_t num_slots_;          // pages that fit in the host's memory
  std::vector<int32_t> free_slots_;  // a stack
  std::unordered_map<PrefixKey, Wanted, PrefixKeyHash> wanted_;
  std::vector<Copy> copies_;  // of the call under way
  int64_t bytes_out_ = 0, bytes_in_ = 0;
};

}  // namespace guildhall
