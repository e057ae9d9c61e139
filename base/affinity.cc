#include "base/affinity.h"

#include <sched.h>

#include "base/check.h"

namespace guildhall {
namespace {

// A core that was taken away meanwhile (a container that shrinks) is no reason to end: the thread stays where
// it is.
void keep_on(std::span<const int> cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(static_cast<size_t>(core), &set);
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace

void stay_on(std::span<const int> cores) {
  if (!cores.empty()) keep_on(cores);
}

std::vector<int> usable_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(static_cast<size_t>(core), &set)) cores.push_back(core);
  if (cores.empty()) cores.push_back(0);  // a machine with more cores than the set has room for
  return cores;
}

std::vector<std::vector<int>> split_cores(std::span<const int> cores, int num_parts) {
  GH_CHECK(!cores.empty() && num_parts > 0);
  const size_t num = static_cast<size_t>(num_parts);
  std::vector<std::vector<int>> parts(num);
  for (size_t i = 0; i < num; ++i) {
    const size_t begin = i * cores.size() / num, end = (i + 1) * cores.size() / num;
    parts[i].assign(cores.begin() + static_cast<ptrdiff_t>(begin),
                    cores.begin() + static_cast<ptrdiff_t>(end));
    if (cores.size() < num) parts[i] = {cores[i % cores.size()]};
  }
  return parts;
}

OnCores::OnCores(std::span<const int> cores) {
  if (cores.empty()) return;
  before_ = usable_cores();
  keep_on(cores);
}

OnCores::~OnCores() {
  if (!before_.empty()) keep_on(before_);
}

}  // namespace guildhall
