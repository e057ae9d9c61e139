#include "router/decode_batch.h"

#include <algorithm>
#include <bit>

namespace guildhall {

int64_t decode_rows(int64_t num_tokens) {
  constexpr int64_t kStep = 8;
  if (num_tokens <= kStep / 2) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_tokens)));
  return (num_tokens + kStep - 1) / kStep * kStep;
}

int64_t decode_context(int64_t max_context) {
  constexpr int64_t kLeast = 512;
  return std::max(kLeast, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(max_context))));
}

bool is_decode(const StepBatch& batch) {
  for (size_t t = 1; t < batch.sequence_t.size(); ++t)
    if (batch.sequence_t[t] == batch.sequence_t[t - 1]) return false;
  return true;
}

int64_t pad_decode(const StepBatch& batch, int64_t block_size, StepBatch& padded) {
  const auto rows = static_cast<size_t>(decode_rows(batch.num_tokens()));
  const int64_t max_context = decode_context(*std::ranges::max_element(batch.position_t) + 1);
  padded.ids_t = batch.ids_t, padded.ids_t.resize(rows, 0);
  padded.position_t = batch.position_t, padded.position_t.resize(rows, -1);
  padded.sequence_t = batch.sequence_t, padded.sequence_t.resize(rows, -1);
  padded.logit_rows = batch.logit_rows;
  padded.num_sequences = static_cast<int64_t>(rows);
  padded.blocks_per_sequence = (max_context + block_size - 1) / block_size;
  padded.block_table_sb.assign(rows * static_cast<size_t>(padded.blocks_per_sequence), 0);
  const int64_t blocks = std::min(batch.blocks_per_sequence, padded.blocks_per_sequence);
  for (int64_t s = 0; s < batch.num_sequences; ++s)
    std::copy_n(batch.block_table_sb.begin() + s * batch.blocks_per_sequence, blocks,
                padded.block_table_sb.begin() + s * padded.blocks_per_sequence);
  return max_context;
}

}  // namespace guildhall
