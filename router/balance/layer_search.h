// layer_search.h: one layer's replicas while a policy arranges them: what each worker holds and how long it
// takes. The policies' common steps: replicate, pack, refine, and single improving moves.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "router/balance/loads.h"
#include "router/balance/replica_placement.h"
#include "router/balance/workers.h"

namespace guildhall {

// What a replica of an expert costs its worker, in any unit.
struct LayerCost {
  enum class Kind { tokens, decode_activations };
  LayerCost(std::span<const ExpertLoad> load_e, Kind kind);

  double share(int32_t expert, int32_t replicas) const {
    const auto e = static_cast<size_t>(expert);
    return kind == Kind::tokens ? tokens_e[e] / replicas : active_share(active_e[e], tokens_e[e], replicas);
  }

  Kind kind;
  std::vector<double> tokens_e;
  std::vector<double> active_e;
};

struct SearchRules {
  bool spread_nodes = true;  // two replicas of an expert or more: on two nodes at least, where that can be
  bool within_node = false;  // refine() swaps between workers of one node only
};

class LayerSearch {
 public:
  // Both are borrowed. Nobody holds anything yet.
  LayerSearch(const LayerCost& cost, const BalanceWorkers& workers, SearchRules rules);

  // One replica of each, then one more of whichever costs its workers most, until num_slots are used
  // (DeepSeek's EPLB, "replicate"; github.com/deepseek-ai/EPLB). Never more than max_replicas of one.
  void replicate(std::span<const int32_t> experts, int64_t num_slots, int32_t max_replicas);
  // The costliest first, each to the worker that has it done earliest (EPLB's "pack"). A further replica for
  // which only workers with the expert have room is left out. The workers hold every expert once.
  void pack(std::span<const int32_t> experts, std::span<const int32_t> workers);
  // Swaps between the slowest worker and others while that makes it faster, until balancedness is `target`.
  void refine(double target);

  // What `current` has, as far as the slots go; experts that then are nowhere are put where it costs least.
  void start_from(const LayerSlots& current);
  // The step that takes most from the slowest worker per expert moved: a swap, a move, one more replica, or a
  // replica in place of another expert's. Returns how many experts it moved; 0: none helps, or fits in
  // max_moves.
  int64_t improve(int64_t max_moves);

  double max_time() const;
  double mean_time() const;           // were all done at once: total cost / total speed
  double balancedness() const;        // mean_time / max_time; 1 without load
  int64_t num_spread_missed() const;  // experts with several replicas, all on one node of several

  // Experts by worker in `current`'s slots where they were there already, else in the lowest free ones.
  LayerSlots slots(const LayerSlots& current) const;

 private:
  struct Step;

  size_t at(size_t w, int32_t e) const { return w * num_experts_ + static_cast<size_t>(e); }
  bool holds(size_t w, int32_t e) const { return holds_we_[at(w, e)] != 0; }
  bool has_room(size_t w) const { return experts_ws_[w].size() < static_cast<size_t>(workers_.slots_w[w]); }
  double time(size_t w) const { return load_w_[w] * inverse_speed_w_[w]; }
  double time_with(size_t w, double change) const { return (load_w_[w] + change) * inverse_speed_w_[w]; }
  size_t slowest() const;
  void put(size_t w, int32_t e);
  void take(size_t w, int32_t e);
  // put and take for an expert whose number of replicas changes: every holder's cost does too.
  void add_replica(size_t w, int32_t e);
  void drop_replica(size_t w, int32_t e);
  void change_share(int32_t e, double change);
  bool stays_spread(int32_t e, int64_t without_worker, int64_t with_worker) const;
  int32_t earliest(std::span<const int32_t> open, int32_t e, int32_t avoided_node) const;
  bool swap_with(size_t slow, size_t other);
  void consider_moves(size_t slow, int32_t e, size_t other, int64_t max_moves, Step& best) const;
  void consider_replacing(size_t slow, int32_t e, size_t other, int32_t victim, Step& best) const;
  void place_missing(int32_t e);
  void apply(const Step& step);

  const LayerCost& cost_;
  const BalanceWorkers& workers_;
  const SearchRules rules_;
  const size_t num_experts_;
  const bool several_nodes_;
  std::vector<int32_t> count_e_;                  // replicas, decided by replicate() or counted
  std::vector<double> share_e_;                   // cost of one replica
  std::vector<double> inverse_speed_w_;           // a division is the dearest part of comparing times
  std::vector<double> load_w_;                    // cost of what it holds
  std::vector<std::vector<int32_t>> experts_ws_;  // in no order
  std::vector<uint8_t> holds_we_;                 // [W, E]
};

}  // namespace guildhall
