// move_plan.h: in which order experts move from where they are to where they are to be. Pure: from what is
// held, what is wanted and what is under way follow the moves that may begin now; asked again whenever one
// ends, it needs no memory of its own and takes failures as they come.
//
// What holds at every point, in whatever order and however slowly moves end:
//   - an expert never has fewer replicas than `target` gives it (or than it had, where it had fewer): a
//     replica goes only while so many others are announced. So an expert with two replicas before and after
//     survives the loss of any one worker at any time;
//   - a worker never has more experts in memory than its limit;
//   - where every worker's limit is at least one expert more than what it is to hold, `target` is reached.
//     (Were all workers with experts to come full of experts that may not go yet, then more experts would be
//     in their memory than are to be; some of these are to be elsewhere, where, nobody else having any to
//     come, they are already, or are there more often than they are to be: one of these may go.)
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "router/balance/held_experts.h"

namespace guildhall {

struct ExpertMove {
  enum class Kind { add, drop };
  Kind kind = Kind::add;
  int32_t worker = 0;
  ExpertsOfLayer experts_l;
  std::optional<int32_t> from_worker;  // of an add; none: the checkpoint
  int64_t num_experts = 0;
};

struct MoveLimits {
  std::vector<int64_t> most_experts_w;  // in memory at once
  int64_t batch = 16;                   // experts per move: they are announced, and can be dropped, together
};

// One move at a time for each worker, drops or adds; an add comes from the holder that sends least, and never
// two adds from each other's worker.
// `held` and `target` have nothing on workers that are away.
std::vector<ExpertMove> next_moves(const HeldExperts& held, const HeldExperts& target,
                                   std::span<const ExpertMove> under_way, const MoveLimits& limits);

// What brings experts that nobody holds to workers that are there.
struct RepairPlan {
  std::vector<ExpertMove> moves;  // that may begin now; drops make room where memory is full of replicas
  int64_t num_without_room = 0;   // experts that no worker can take
};

// Each expert goes to the worker with the fewest for its speed. can_add_w: workers that may be asked.
RepairPlan plan_repair(const HeldExperts& held, const std::vector<bool>& can_add_w,
                       std::span<const double> speed_w, std::span<const ExpertMove> under_way,
                       const MoveLimits& limits);

}  // namespace guildhall
