// logit_edits_cpu.cc: edits of logits, a thread per row; words of a mask that allow all or nothing are one
// step.
#include <algorithm>
#include <limits>

#include "base/check.h"
#include "kernels/logit_edits.h"

namespace guildhall {
namespace {

void mask_row(const uint32_t* allowed_w, int64_t size, float* logits_v) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0; begin < size; begin += kMaskBits) {
    const uint32_t allowed = allowed_w[begin / kMaskBits];
    const int64_t n = std::min(kMaskBits, size - begin);
    if (allowed == ~uint32_t{0}) continue;
    if (allowed == 0) {
      std::fill_n(logits_v + begin, n, kNever);
      continue;
    }
    for (int64_t i = 0; i < n; ++i)
      if ((allowed >> i & 1) == 0) logits_v[begin + i] = kNever;
  }
}

}  // namespace

void edit_logits_cpu(Team& team, std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                     View2<const uint32_t> allowed_mw, View2<float> logits_rv) {
  const auto one = [&](int64_t i) {
    const EditedRow& edited = row_i[static_cast<size_t>(i)];
    GH_CHECK(edited.row >= 0 && edited.row < logits_rv.rows && edited.mask < allowed_mw.rows);
    float* logits_v = logits_rv.row(edited.row);
    for (const LogitEdit& edit :
         edit_e.subspan(static_cast<size_t>(edited.first_edit), static_cast<size_t>(edited.num_edits))) {
      GH_CHECK(edit.id >= 0 && edit.id < logits_rv.cols);
      logits_v[edit.id] = edited_logit(logits_v[edit.id], edit);
    }
    if (edited.mask >= 0) mask_row(allowed_mw.row(edited.mask), logits_rv.cols, logits_v);
  };
  team.parallel_for(static_cast<int64_t>(row_i.size()), std::ref(one));
}

}  // namespace guildhall
