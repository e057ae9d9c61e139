// other_ranks.h: the ranks of tensor parallelism after the first, from configuration to engine: devices,
// their parts of the weights, and caches. The first rank's are the engine's own. With one rank there is
// nothing here. Main's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "deploy/programs/kv_memory.h"
#include "model/weights.h"
#include "proto/config.pb.h"
#include "router/tensor_ranks.h"

namespace guildhall {

// The first rank's.
struct FirstRank {
  Ops& ops;
  const DenseWeights& weights;
};

class OtherRanks {
 public:
  // Divides the model. The error names router.dense.tensor_parallel and what would work.
  static Result<std::unique_ptr<OtherRanks>> divide(const config::Config& config, const ModelSpec& spec);

  const ModelShard& shard(size_t rank) const { return shard_r_[rank]; }
  size_t num_ranks() const { return shard_r_.size(); }
  // The device of each rank, as open_device takes it.
  const std::string& device(size_t rank) const { return device_r_[rank]; }
  // Where its threads run; empty: anywhere.
  const std::vector<int>& cores(size_t rank) const { return cores_r_[rank]; }

  // Their compute threads, and those of TensorRanks, stay on their cores.
  Result<void> open(const config::Config& config);
  Result<void> load(const config::Config& config, const ModelSpec& spec, LoadProgress& progress);
  // On GPUs, once all weights are there: the memory that the ranks' caches may take, for make_caches(). Of
  // one replica, where several share a GPU: each needs as much beside its cache as the one that rehearses.
  Result<int64_t> measure(const config::Config& config, const KvCacheOptions& options,
                          const FirstRank& first);
  // options.memory_bytes is what the rank takes whose keys and values take most. Returns the first rank's.
  Result<std::unique_ptr<KvCache>> make_caches(const KvCacheOptions& options, Ops& first);
  // For the engine, at the end; null: there is one rank.
  Result<std::unique_ptr<TensorRanks>> join(const config::Config& config, Ops& first);

 private:
  OtherRanks() = default;
  std::vector<Ops*> all_ops(Ops& first) const;

  std::vector<ModelShard> shard_r_;
  std::vector<std::string> device_r_;
  std::vector<std::vector<int>> cores_r_;
  std::vector<TensorRanks::Rank> others_;
};

// The shard whose keys and values take most memory: what a token takes of router.kv_cache.memory.
Result<ModelShard> widest_shard(const config::Config& config, const ModelSpec& spec);

}  // namespace guildhall
