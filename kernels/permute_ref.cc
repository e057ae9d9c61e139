// permute_ref.cc: grouping by expert by scanning the pairs once per expert; row moves by element.
#include "kernels/permute.h"

namespace guildhall {

void group_by_expert_ref(std::span<const int32_t> expert_p, std::span<int32_t> offset_e,
                         std::span<int32_t> position_p) {
  int32_t next = 0;
  for (size_t e = 0; e + 1 < offset_e.size(); ++e) {
    offset_e[e] = next;
    for (size_t p = 0; p < expert_p.size(); ++p)
      if (expert_p[p] == static_cast<int32_t>(e)) position_p[p] = next++;
  }
  offset_e.back() = next;
}

void permute_ref(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
                 View2<float> grouped_ph) {
  for (size_t p = 0; p < row_p.size(); ++p)
    for (int64_t h = 0; h < x_th.cols; ++h) grouped_ph(position_p[p], h) = x_th(row_p[p], h);
}

void unpermute_ref(View2<const float> grouped_ph, std::span<const int32_t> position_p, View2<float> y_ph) {
  for (size_t p = 0; p < position_p.size(); ++p)
    for (int64_t h = 0; h < grouped_ph.cols; ++h) y_ph(p, h) = grouped_ph(position_p[p], h);
}

}  // namespace guildhall
