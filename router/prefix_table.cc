#include "router/prefix_table.h"

namespace guildhall {

size_t PrefixTable::num_found(std::span<const PrefixKey> keys) const {
  size_t found = 0;
  while (found < keys.size() && place_of_.contains(keys[found])) ++found;
  return found;
}

void PrefixTable::add(std::span<const PrefixKey> keys) {
  if (keys.size() > max_keys_) keys = keys.first(max_keys_);
  for (size_t i = keys.size(); i-- > 0;) {  // the first block ends as the newest
    const auto [place, is_new] = place_of_.try_emplace(keys[i]);
    if (is_new)
      place->second = by_age_.insert(by_age_.end(), keys[i]);
    else
      by_age_.splice(by_age_.end(), by_age_, place->second);
  }
  while (by_age_.size() > max_keys_) {
    place_of_.erase(by_age_.front());
    by_age_.pop_front();
  }
}

}  // namespace guildhall
