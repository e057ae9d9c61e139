// affinity.h: which cores threads run on.
#pragma once

#include <span>
#include <vector>

namespace guildhall {

// The cores that the calling thread may use, ascending; never empty.
std::vector<int> usable_cores();

// `cores` as `num_parts` neighbouring runs whose sizes differ by one at most (neighbours share caches and
// memory). With fewer cores than parts, parts have one core each, in turn.
std::vector<std::vector<int>> split_cores(std::span<const int> cores, int num_parts);

// Keeps the calling thread, and threads that it starts from now on, on `cores` for good. Empty: does nothing.
void stay_on(std::span<const int> cores);

// Keeps the calling thread, and threads that it starts meanwhile (which inherit it for good), on `cores`
// until the end of its life. Empty: does nothing.
class OnCores {
 public:
  explicit OnCores(std::span<const int> cores);
  ~OnCores();
  OnCores(const OnCores&) = delete;
  OnCores& operator=(const OnCores&) = delete;

 private:
  std::vector<int> before_;  // empty: nothing to restore
};

}  // namespace guildhall
