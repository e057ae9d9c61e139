// replica_chooser.h: which replica of an expert serves each token of a dispatch. By load: a worker's is the
// pairs it gets in this dispatch, those of experts that it alone holds first, over its speed.
// Owner: the engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/view.h"
#include "router/balance/replica_choice.h"
#include "router/replica_table.h"

namespace guildhall {

struct ReplicaRules {
  ReplicaChoice choice = ReplicaChoice::least_loaded;
  // [W] as replica_choice.h has them; empty: all alike.
  std::vector<double> speed_w;
  std::vector<int32_t> distance_w;
};

// Whose rows a dispatch has, row by row: what a hash is of. Empty: nobody's, then a row's number is.
struct RowOwners {
  std::span<const uint64_t> seed_s;     // of the requests
  std::span<const int32_t> sequence_t;  // the row's, in seed_s
  std::span<const int32_t> position_t;  // in its sequence
};

class ReplicaChooser {
 public:
  ReplicaChooser(ReplicaRules rules, int64_t num_workers);

  // A dispatch begins. The views must live as long as it is routed.
  void begin(int64_t layer, const LayerReplicas& replicas, const RowOwners& owners,
             View2<const int32_t> expert_tk);
  // The worker for one of its pairs, of an expert that several hold.
  int32_t choose(int64_t token, int32_t expert);

 private:
  TokenKey key(int64_t token, int32_t expert) const;

  const ReplicaChoice choice_;
  const bool by_load_;
  std::vector<double> pair_cost_w_;  // 1 / speed
  std::vector<int32_t> distance_w_;
  // Of the dispatch.
  int32_t layer_ = 0;
  LayerReplicas replicas_;
  RowOwners owners_;
  std::vector<double> load_w_;
};

}  // namespace guildhall
