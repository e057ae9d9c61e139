// decode_batch.h: a decode step in one of a few shapes: rows are added until there are as many as in a
// bucket, and block tables are as long as a bucket of contexts needs. What a device recorded for one step of
// a shape then serves all steps of it (Ops::replay). Pure.
#pragma once

#include "router/step_batch.h"

namespace guildhall {

// 1, 2, 4, then multiples of 8: at most 7 rows of padding, few shapes.
int64_t decode_rows(int64_t num_tokens);
// The least power of two that is not below the context; 512 at least.
int64_t decode_context(int64_t max_context);

// Whether each token is a sequence of its own.
bool is_decode(const StepBatch& batch);

// A decode step's arrays with rows of padding (id 0, position -1, sequence -1) up to decode_rows(), and block
// tables of one row for each, which cover decode_context() positions. Returns that context.
int64_t pad_decode(const StepBatch& batch, int64_t block_size, StepBatch& padded);

}  // namespace guildhall
