// paced_ops.h: the ops of an expert worker whose device takes as long as it is told, and leaves the host's cores
// alone meanwhile: several such workers on one machine are as independent as on machines of their own. The
// arithmetic is another Ops', bit for bit.
#pragma once

#include <chrono>
#include <memory>

#include "kernels/ops.h"

namespace guildhall {

struct Pace {
  std::chrono::nanoseconds pair{};        // of each (token, expert)
  std::chrono::nanoseconds activation{};  // of each expert that gets any: reading its weights
};

std::unique_ptr<Ops> make_paced_ops(std::unique_ptr<Ops> ops, const Pace& pace);

}  // namespace guildhall
