// step_batch.h: the tokens of one step, as the forward pass reads them. Reused from step to step.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/paged_attention.h"

namespace guildhall {

struct StepBatch {
  // One entry per token, tokens of a sequence adjacent and in order.
  std::vector<int32_t> ids_t, position_t, sequence_t;  // sequence_t: row of the block table
  std::vector<uint64_t> seed_s;                        // of the requests; empty: nobody's
  std::vector<int32_t> block_table_sb;                 // [S, blocks_per_sequence], row-major
  int64_t num_sequences = 0, blocks_per_sequence = 0;
  std::vector<int32_t> logit_rows;  // token rows whose logits are wanted, ascending
  // Token rows whose experts are wanted, ascending; one that is wanted twice is there twice.
  std::vector<int32_t> routed_rows;

  int64_t num_tokens() const { return static_cast<int64_t>(ids_t.size()); }

  AttentionBatch attention() const {
    return {sequence_t, position_t, {block_table_sb.data(), num_sequences, blocks_per_sequence}};
  }
};

}  // namespace guildhall
