// shard.h: what one rank of tensor parallelism holds of a model's dense layers, and the model as that rank
// computes it: its heads, its columns of the MLPs, its rows of the vocabulary (Shoeybi et al. 2019,
// Megatron-LM §3). Parts need not be equal: the largest sets the pace. Keys and values of grouped queries are
// divided with their queries, or shared by ranks where there are fewer of them than ranks; MLA's latent cache
// is on every rank.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "model/spec.h"

namespace guildhall {

struct IndexRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool contains(int64_t i) const { return i >= begin && i < end; }
  bool operator==(const IndexRange&) const = default;
};

struct ModelShard {
  int rank = 0, num_ranks = 1;
  ModelSpec spec;                            // with this rank's numbers of heads, widths and vocabulary
  IndexRange heads, kv_heads;                // kv_heads: grouped queries only
  IndexRange dense_columns, shared_columns;  // of the MLPs
  IndexRange vocab;
  int64_t vocab_size = 0;  // of all ranks
};

// The model on one rank.
ModelShard whole_model(const ModelSpec& spec);

// invalid_argument, naming router.dense.tensor_parallel and what would work, when a rank would have nothing.
Result<ModelShard> make_shard(const ModelSpec& spec, int rank, int num_ranks);

}  // namespace guildhall
