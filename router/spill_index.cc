#include "router/spill_index.h"

#include <fmt/format.h>

#include "base/check.h"

namespace guildhall {

bool SpillIndex::is_written(const PrefixKey& key) const {
  const auto it = entry_of_.find(key);
  return it != entry_of_.end() && it->second.is_written;
}

std::optional<int64_t> SpillIndex::take_slot() {
  if (free_slots_.empty() && num_begun_ < num_slots_) return num_begun_++;
  if (free_slots_.empty() && by_age_.empty()) return std::nullopt;
  if (free_slots_.empty()) erase(PrefixKey(by_age_.front()));
  const int64_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

std::optional<int64_t> SpillIndex::begin_write(const PrefixKey& key) {
  GH_CHECK(!is_known(key));
  const std::optional<int64_t> slot = take_slot();
  if (slot) entry_of_[key].slot = *slot;
  return slot;
}

void SpillIndex::end_write(const PrefixKey& key) {
  entry_of_.at(key).is_written = true;
  end_read(key);
}

int64_t SpillIndex::begin_read(const PrefixKey& key) {
  Entry& entry = entry_of_.at(key);
  GH_CHECK(entry.is_written && !entry.is_busy);
  entry.is_busy = true;
  by_age_.erase(entry.place);
  return entry.slot;
}

void SpillIndex::end_read(const PrefixKey& key) {
  Entry& entry = entry_of_.at(key);
  GH_CHECK(entry.is_busy);
  entry.is_busy = false;
  entry.place = by_age_.insert(by_age_.end(), key);
}

void SpillIndex::touch(std::span<const PrefixKey> keys) {
  for (size_t i = keys.size(); i-- > 0;) {  // the first block ends as the newest
    const auto it = entry_of_.find(keys[i]);
    if (it != entry_of_.end() && !it->second.is_busy)
      by_age_.splice(by_age_.end(), by_age_, it->second.place);
  }
}

void SpillIndex::erase(const PrefixKey& key) {
  const auto it = entry_of_.find(key);
  GH_CHECK(it != entry_of_.end() && !it->second.is_busy);
  free_slots_.push_back(it->second.slot);
  by_age_.erase(it->second.place);
  entry_of_.erase(it);
}

std::string SpillIndex::audit() const {
  std::vector<int> owners_s(static_cast<size_t>(num_begun_));
  for (const int64_t slot : free_slots_) ++owners_s[static_cast<size_t>(slot)];
  size_t num_at_rest = 0;
  for (const auto& [key, entry] : entry_of_) {
    ++owners_s[static_cast<size_t>(entry.slot)];
    num_at_rest += !entry.is_busy;
  }
  for (size_t slot = 0; slot < owners_s.size(); ++slot)
    if (owners_s[slot] != 1)
      return fmt::format("slot {} of the spill file has {} owners, not one", slot, owners_s[slot]);
  if (num_at_rest != by_age_.size())
    return fmt::format("{} spilled pages may be given up, {} are listed", num_at_rest, by_age_.size());
  return {};
}

}  // namespace guildhall
