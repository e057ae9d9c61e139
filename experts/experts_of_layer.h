// experts_of_layer.h: a set of a model's experts.
#pragma once

#include <cstdint>
#include <vector>

namespace guildhall {

using ExpertsOfLayer = std::vector<std::vector<int32_t>>;  // [L] ascending expert indices

inline int64_t count_of(const ExpertsOfLayer& experts_l) {
  int64_t count = 0;
  for (const auto& experts : experts_l) count += static_cast<int64_t>(experts.size());
  return count;
}

}  // namespace guildhall
