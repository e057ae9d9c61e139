// micro_batch_split.h: where to divide a step's tokens so that both micro-batches take the router about
// equally long.
#pragma once

#include <cstdint>
#include <span>

#include "model/spec.h"

namespace guildhall {

// The first token of the second micro-batch, in [1, T-1]; 0 when there is nothing to divide. A token counts
// by the multiplications of its layer on the router: its linear maps, and attention to every position up to
// its own. A sequence may come to lie on both sides.
int64_t split_by_work(const ModelSpec& spec, std::span<const int32_t> position_t);

}  // namespace guildhall
