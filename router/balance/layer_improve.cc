// layer_improve.cc: LayerSearch's single steps from a placement that is there: fewest experts moved for most
// time saved.
#include <algorithm>

#include "base/check.h"
#include "router/balance/layer_search.h"

namespace guildhall {
namespace {

constexpr double kLeastGain = 1e-6;  // of the slowest worker's time; less is not worth an expert's bytes

}  // namespace

struct LayerSearch::Step {
  enum class Kind { none, move, swap, replicate, replace } kind = Kind::none;
  size_t slow = 0, other = 0;
  int32_t expert = kEmptySlot;  // of the slow worker
  int32_t victim = kEmptySlot;  // of the other: swapped for it, or given up for its replica
  int64_t moves = 0;
  double gain_per_move = 0;

  void consider(const Step& step, double time_before, double time_after) {
    const double gain = time_before - time_after;
    if (gain <= time_before * kLeastGain || gain / static_cast<double>(step.moves) <= gain_per_move) return;
    *this = step;
    gain_per_move = gain / static_cast<double>(step.moves);
  }
};

void LayerSearch::add_replica(size_t w, int32_t e) {
  const int32_t count = ++count_e_[static_cast<size_t>(e)];
  change_share(e, cost_.share(e, count) - share_e_[static_cast<size_t>(e)]);
  put(w, e);
}

void LayerSearch::drop_replica(size_t w, int32_t e) {
  take(w, e);
  const int32_t count = --count_e_[static_cast<size_t>(e)];
  change_share(e, cost_.share(e, count) - share_e_[static_cast<size_t>(e)]);
}

void LayerSearch::start_from(const LayerSlots& current) {
  GH_CHECK(current.size() == workers_.size());
  for (size_t w = 0; w < current.size(); ++w)
    for (const int32_t e : current[w])
      if (e != kEmptySlot && has_room(w) && !holds(w, e)) add_replica(w, e);
  for (size_t e = 0; e < num_experts_; ++e)
    if (count_e_[e] == 0) place_missing(static_cast<int32_t>(e));
}

// Into the free slot whose worker is done first; without one, in place of an expert that has replicas left.
void LayerSearch::place_missing(int32_t e) {
  constexpr size_t kNone = SIZE_MAX;
  const double share = cost_.share(e, 1);
  size_t best = kNone;
  for (size_t w = 0; w < workers_.size(); ++w)
    if (has_room(w) && (best == kNone || time_with(w, share) < time_with(best, share))) best = w;
  if (best == kNone) {
    int32_t victim = kEmptySlot;
    for (size_t w = 0; w < workers_.size(); ++w)
      for (const int32_t held : experts_ws_[w]) {
        if (count_e_[static_cast<size_t>(held)] < 2) continue;
        if (best != kNone && time(w) >= time(best)) continue;
        best = w, victim = held;
      }
    GH_CHECK(best != kNone);
    drop_replica(best, victim);
  }
  add_replica(best, e);
}

int64_t LayerSearch::improve(int64_t max_moves) {
  const size_t slow = slowest();
  Step best;
  for (const int32_t e : experts_ws_[slow])
    for (size_t other = 0; other < workers_.size(); ++other)
      if (other != slow && !holds(other, e) && time(other) < time(slow))
        consider_moves(slow, e, other, max_moves, best);
  if (best.kind != Step::Kind::none) apply(best);
  return best.moves;
}

void LayerSearch::consider_moves(size_t slow, int32_t e, size_t other, int64_t max_moves, Step& best) const {
  if (max_moves < 1) return;
  const double share = share_e_[static_cast<size_t>(e)];
  const auto from = static_cast<int64_t>(slow), to = static_cast<int64_t>(other);
  const bool may_leave = stays_spread(e, from, to);
  if (has_room(other)) {
    if (may_leave)
      best.consider({Step::Kind::move, slow, other, e, kEmptySlot, 1}, time(slow),
                    std::max(time_with(slow, -share), time_with(other, share)));
    const double shared = cost_.share(e, count_e_[static_cast<size_t>(e)] + 1);
    if (stays_spread(e, -1, to))
      best.consider({Step::Kind::replicate, slow, other, e, kEmptySlot, 1}, time(slow),
                    std::max(time_with(slow, shared - share), time_with(other, shared)));
  }
  for (const int32_t victim : experts_ws_[other]) {
    const double change = share - share_e_[static_cast<size_t>(victim)];
    if (may_leave && max_moves >= 2 && change > 0 && !holds(slow, victim) && stays_spread(victim, to, from))
      best.consider({Step::Kind::swap, slow, other, e, victim, 2}, time(slow),
                    std::max(time_with(slow, -change), time_with(other, change)));
    if (count_e_[static_cast<size_t>(victim)] > 1) consider_replacing(slow, e, other, victim, best);
  }
}

// A replica of `e` where `other` has one of `victim`, whose other replicas then take its share.
void LayerSearch::consider_replacing(size_t slow, int32_t e, size_t other, int32_t victim, Step& best) const {
  const auto to = static_cast<int64_t>(other);
  const auto v = static_cast<size_t>(victim);
  const double change_e =
      cost_.share(e, count_e_[static_cast<size_t>(e)] + 1) - share_e_[static_cast<size_t>(e)];
  const double change_v = cost_.share(victim, count_e_[v] - 1) - share_e_[v];
  const double shared = share_e_[static_cast<size_t>(e)] + change_e;
  double after = time_with(other, shared - share_e_[v]);
  if (time(slow) - after <= best.gain_per_move || !stays_spread(victim, to, -1) || !stays_spread(e, -1, to))
    return;
  for (size_t w = 0; w < workers_.size(); ++w) {
    if (w == other) continue;
    const double change = (holds(w, e) ? change_e : 0) + (holds(w, victim) ? change_v : 0);
    if (w == slow || change > 0) after = std::max(after, time_with(w, change));
  }
  best.consider({Step::Kind::replace, slow, other, e, victim, 1}, time(slow), after);
}

void LayerSearch::apply(const Step& step) {
  switch (step.kind) {
    case Step::Kind::none:
      return;
    case Step::Kind::move:
      take(step.slow, step.expert);
      put(step.other, step.expert);
      return;
    case Step::Kind::swap:
      take(step.slow, step.expert);
      take(step.other, step.victim);
      put(step.other, step.expert);
      put(step.slow, step.victim);
      return;
    case Step::Kind::replicate:
      add_replica(step.other, step.expert);
      return;
    case Step::Kind::replace:
      drop_replica(step.other, step.victim);
      add_replica(step.other, step.expert);
      return;
  }
}

}  // namespace guildhall
