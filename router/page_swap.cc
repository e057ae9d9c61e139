#include "router/page_swap.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"

namespace guildhall {

PageSwap::PageSwap(std::vector<RankCache> cache_r, Preemption preemption)
    : cache_r_(std::move(cache_r)),
      pool_(cache_r_[0].cache->pool()),
      policy_(preemption),
      num_slots_(std::ranges::min(cache_r_, {}, [](const RankCache& r) {
                   return r.cache->num_swap_pages();
                 }).cache->num_swap_pages()) {
  for (int64_t slot = num_slots_; slot-- > 0;) free_slots_.push_back(static_cast<int32_t>(slot));
  pool_.watch(*this);
}

PageSwap::~PageSwap() { pool_.unwatch(*this); }

bool PageSwap::keep(Sequence& s) {
  const int64_t num_pages = pool_.pages_for(s.num_computed);
  if (num_pages == 0 || num_slots_ == 0) return false;
  // A block whose page has no key, as another's had it already, may be found no more.
  const auto is_lost = [&](size_t block) {
    const auto it = wanted_.find(s.keys[block]);
    return !pool_.is_findable(s.keys[block]) && (it == wanted_.end() || it->second.slot == kNone);
  };
  const auto num_keys = static_cast<size_t>(s.num_published);
  auto num_missing = num_pages - s.num_published;
  for (size_t block = 0; block < num_keys; ++block) num_missing += is_lost(block);
  if (num_missing > static_cast<int64_t>(free_slots_.size())) return false;
  if (!policy_.swaps({.num_tokens = s.num_computed, .bytes = num_pages * page_bytes()})) return false;

  s.kept = {.num_tokens = s.num_computed, .num_keys = s.num_published, .slots = {}};
  for (size_t block = 0; block < static_cast<size_t>(num_pages); ++block) {
    if (block >= num_keys) {
      copies_.push_back({s.pages[block], s.kept.slots.emplace_back(take_slot())});
      continue;
    }
    if (is_lost(block)) copies_.push_back({s.pages[block], wanted_[s.keys[block]].slot = take_slot()});
    ++wanted_[s.keys[block]].num_sequences;
  }
  copy(SwapPolicy::Direction::out);
  return true;
}

void PageSwap::forget(Sequence& s) {
  for (int64_t block = 0; block < s.kept.num_keys; ++block) {
    const auto it = wanted_.find(s.keys[static_cast<size_t>(block)]);
    GH_CHECK(it != wanted_.end());
    if (--it->second.num_sequences > 0) continue;
    if (it->second.slot != kNone) free_slots_.push_back(it->second.slot);
    wanted_.erase(it);
  }
  free_slots_.insert(free_slots_.end(), s.kept.slots.begin(), s.kept.slots.end());
  s.kept = {};
}

int64_t PageSwap::find(std::span<const PrefixKey> keys) const {
  int64_t n = 0;
  for (const PrefixKey& key : keys) {
    const auto it = wanted_.find(key);
    if (it == wanted_.end() || it->second.slot == kNone) break;
    ++n;
  }
  return n;
}

void PageSwap::restore(std::span<const PrefixKey> keys, std::span<const int32_t> slots,
                       std::span<const int32_t> pages) {
  GH_CHECK(pages.size() == keys.size() + slots.size());
  for (size_t i = 0; i < pages.size(); ++i)
    copies_.push_back({pages[i], i < keys.size() ? wanted_.at(keys[i]).slot : slots[i - keys.size()]});
  copy(SwapPolicy::Direction::in);
}

void PageSwap::on_evict(int32_t page, const PrefixKey& key) {
  const auto it = wanted_.find(key);
  if (it == wanted_.end() || it->second.slot != kNone || free_slots_.empty()) return;
  copies_.push_back({page, it->second.slot = take_slot()});
  copy(SwapPolicy::Direction::out);
}

int32_t PageSwap::take_slot() {
  const int32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

int64_t PageSwap::page_bytes() const {
  int64_t bytes = 0;
  for (const RankCache& rank : cache_r_) bytes += rank.cache->page_bytes();
  return bytes;
}

// Between steps: devices have nothing else to do, and pages that were copied are free to be overwritten.
void PageSwap::copy(SwapPolicy::Direction direction) {
  if (copies_.empty()) return;
  const bool out = direction == SwapPolicy::Direction::out;
  const int64_t begin = now_ns();
  for (const RankCache& rank : cache_r_)
    for (const Copy& c : copies_) {
      std::byte* host = rank.cache->swap_page(c.slot);
      out ? download_page(rank, c.page, host) : upload_page(rank, host, c.page);
    }
  for (const RankCache& rank : cache_r_) rank.ops->wait(rank.ops->mark(), "wait swap");
  const int64_t bytes = static_cast<int64_t>(copies_.size()) * page_bytes();
  policy_.record_copy(direction, bytes, now_ns() - begin);
  (out ? bytes_out_ : bytes_in_) += bytes;
  copies_.clear();
}

std::string PageSwap::audit(std::span<const Sequence* const> sequences) const {
  std::vector<int> holders_s(static_cast<size_t>(num_slots_));
  for (const int32_t slot : free_slots_) ++holders_s[static_cast<size_t>(slot)];
  std::unordered_map<PrefixKey, int64_t, PrefixKeyHash> wanted;
  for (const Sequence* s : sequences) {
    for (const int32_t slot : s->kept.slots) ++holders_s[static_cast<size_t>(slot)];
    for (int64_t i = 0; i < s->kept.num_keys; ++i) ++wanted[s->keys[static_cast<size_t>(i)]];
  }
  if (wanted.size() != wanted_.size())
    return fmt::format("sequences want {} swapped pages by key, {} are booked", wanted.size(),
                       wanted_.size());
  for (const auto& [key, entry] : wanted_) {
    if (const auto it = wanted.find(key); it == wanted.end() || it->second != entry.num_sequences)
      return fmt::format("a swapped page is booked for {} sequences, not for those that want it",
                         entry.num_sequences);
    if (entry.slot != kNone) ++holders_s[static_cast<size_t>(entry.slot)];
  }
  for (size_t slot = 0; slot < holders_s.size(); ++slot)
    if (holders_s[slot] != 1)
      return fmt::format("host page {} has {} owners, not one", slot, holders_s[slot]);
  return {};
}

}  // namespace guildhall
