// logit_edits_ref.cc: edits of logits, token by token.
#include <limits>

#include "kernels/logit_edits.h"

namespace guildhall {

void edit_logits_ref(std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                     View2<const uint32_t> allowed_mw, View2<float> logits_rv) {
  for (const EditedRow& edited : row_i) {
    float* logits_v = logits_rv.row(edited.row);
    for (int64_t i = edited.first_edit; i < edited.first_edit + edited.num_edits; ++i) {
      const LogitEdit& edit = edit_e[static_cast<size_t>(i)];
      logits_v[edit.id] = edited_logit(logits_v[edit.id], edit);
    }
    if (edited.mask < 0) continue;
    for (int64_t v = 0; v < logits_rv.cols; ++v)
      if ((allowed_mw(edited.mask, v / kMaskBits) >> (v % kMaskBits) & 1) == 0)
        logits_v[v] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace guildhall
