// logit_edits.h: what a request asks of its own logits, put into their row before a token is drawn: tokens
// that cannot be drawn, biases, penalties for tokens that occurred. Only what is listed is touched; in place.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/host_device.h"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/stream.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

// One token's, in this order: x += bias; x = x > 0 ? x / repetition : x * repetition (Keskar et al. 2019, as
// Hugging Face has it); x -= penalty.
struct LogitEdit {
  int32_t id = 0;        // [0, V)
  float bias = 0;        // -inf: the token cannot be drawn
  float repetition = 1;  // above 0
  float penalty = 0;
};

// A row of a batch's logits and what is done to it. Rows are listed once each, and ids once per row.
struct EditedRow {
  int64_t row = 0;
  int64_t first_edit = 0, num_edits = 0;
  int64_t mask = -1;  // row of allowed_mw: what is not allowed there becomes -inf after all edits; -1: none
};

// Words of a mask of V tokens: token v is bit v % 32 of word v / 32.
inline constexpr int64_t kMaskBits = 32;
inline constexpr int64_t mask_words(int64_t vocabulary) { return (vocabulary + kMaskBits - 1) / kMaskBits; }

// Rounded one by one, so that all devices have the same bits.
GH_HOST_DEVICE inline float edited_logit(float x, const LogitEdit& edit) {
  x = add_rounded(x, edit.bias);
  x = x > 0 ? x / edit.repetition : mul_rounded(x, edit.repetition);
  return add_rounded(x, -edit.penalty);
}

void edit_logits_ref(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                     View2<const uint32_t> allowed_mw, View2<float> logits_rv);
void edit_logits_cpu(Team& team, std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                     View2<const uint32_t> allowed_mw, View2<float> logits_rv);
// The lists are on the device too, where nothing checks them. ref's bits.
void edit_logits_cuda(CudaStream stream, std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                      View2<const uint32_t> allowed_mw, View2<float> logits_rv);

}  // namespace guildhall
