// prefix_table.h: which prompt beginnings somebody was given, newest last: what it probably still has in its
// KV cache. Owner: whoever holds its lock.
#pragma once

#include <cstddef>
#include <list>
#include <span>
#include <unordered_map>

#include "router/prefix_key.h"

namespace guildhall {

class PrefixTable {
 public:
  explicit PrefixTable(size_t max_keys) : max_keys_(max_keys) {}

  // How many leading keys are here, without a gap.
  size_t num_found(std::span<const PrefixKey> keys) const;
  // They were given; the oldest others make way. Of one prompt the last blocks go first.
  void add(std::span<const PrefixKey> keys);
  size_t size() const { return place_of_.size(); }

 private:
  size_t max_keys_;
  std::list<PrefixKey> by_age_;  // oldest first
  std::unordered_map<PrefixKey, std::list<PrefixKey>::iterator, PrefixKeyHash> place_of_;
};

}  // namespace guildhall
