// tensor_ranks.h: the ranks of tensor parallelism in one process. The engine thread is the first rank; the
// others are threads that wait for a step and run it as it does, with a device, weights and cache of their
// own. A step ends when all ranks are at rest; the first error on any of them is the step's, and releases the
// others. Lifecycle: made with what the ranks compute with; start() by the engine; the destructor joins the
// threads. Owner: the engine thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "router/collective.h"
#include "router/forward.h"

namespace guildhall {

class TensorRanks {
 public:
  // One of the ranks after the first.
  struct Rank {
    std::unique_ptr<Ops> ops;
    std::shared_ptr<const DenseWeights> weights;
    std::unique_ptr<KvCache> cache;           // with as many pages as the first rank's
    std::function<void()> on_thread = [] {};  // called by its thread before all else
  };
  // shard_r of all ranks, others of those after the first. spin_ns as in TeamOptions.
  TensorRanks(std::vector<ModelShard> shard_r, std::vector<Rank> others,
              std::unique_ptr<CollectiveGroup> group, int64_t spin_ns);
  ~TensorRanks();

  const ModelShard& shard(int rank) const { return shard_r_[static_cast<size_t>(rank)]; }
  // What the first rank's Forward is made with.
  ForwardRank first() { return {&shard_r_[0], &group_->rank(0)}; }
  // Makes the others' Forwards and threads. Once, before the rest.
  void start(int64_t max_tokens, int64_t max_position);

  // Appends the others' caches. Between steps, when their threads are at rest, the engine thread may copy
  // there.
  void add_caches(std::vector<RankCache>& cache_r) const;

  // As Forward's, on all ranks; `first` is the first rank's. The views are the first rank's.
  Result<View2<const float>> run(Forward& first, const StepBatch& batch, int64_t split);
  Result<View2<float>> logits(Forward& first, View2<const float> hidden_rh);

 private:
  // A rank's last results.
  struct Results {
    View2<const float> hidden_rh;
    View2<float> logits_rv;
  };
  using Program = std::function<Result<void>(Forward&, Results&)>;
  struct Member {
    Rank rank;
    StepClock clock;
    std::unique_ptr<Forward> forward;
    Results results;
    std::thread thread;
  };

  Result<void> on_all(Forward& first, const Program& program);
  void follow(Member& member, int rank);

  const std::vector<ModelShard> shard_r_;
  const std::unique_ptr<CollectiveGroup> group_;
  const int64_t spin_ns_;
  std::vector<std::unique_ptr<Member>> others_;
  Results results_;                   // of the first rank
  const Program* program_ = nullptr;  // of the job; null: the end
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint32_t> num_running_{0};  // of the others, in this job
};

// Caches of all ranks, each on its rank's memory: as many pages on each as `options` gives to the rank that
// needs most for one.
Result<std::vector<std::unique_ptr<KvCache>>> make_rank_caches(const std::vector<ModelShard>& shard_r,
                                                               const KvCacheOptions& options,
                                                               const std::vector<Ops*>& ops_r);

}  // namespace guildhall
