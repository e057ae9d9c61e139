// permute_cpu.cc: grouping by counting sort, and row copies.
#include <algorithm>

#include "base/check.h"
#include "kernels/permute.h"

namespace guildhall {

void group_by_expert_cpu(std::span<const int32_t> expert_p, std::span<int32_t> offset_e,
                         std::span<int32_t> position_p) {
  GH_CHECK(!offset_e.empty() && position_p.size() == expert_p.size());
  const auto num_experts = static_cast<int32_t>(offset_e.size()) - 1;
  std::fill(offset_e.begin(), offset_e.end(), 0);
  for (int32_t e : expert_p) {
    GH_CHECK(e >= 0 && e < num_experts);
    ++offset_e[e + 1];
  }
  for (int32_t e = 0; e < num_experts; ++e) offset_e[e + 1] += offset_e[e];
  // The offsets serve as cursors; each ends where the next group begins, so one shift restores them.
  for (size_t p = 0; p < expert_p.size(); ++p) position_p[p] = offset_e[expert_p[p]]++;
  for (int32_t e = num_experts; e > 0; --e) offset_e[e] = offset_e[e - 1];
  offset_e[0] = 0;
}

void permute_cpu(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
                 View2<float> grouped_ph) {
  GH_CHECK(row_p.size() == position_p.size() && x_th.cols == grouped_ph.cols);
  for (size_t p = 0; p < row_p.size(); ++p)
    std::copy_n(x_th.row(row_p[p]), x_th.cols, grouped_ph.row(position_p[p]));
}

void unpermute_cpu(View2<const float> grouped_ph, std::span<const int32_t> position_p, View2<float> y_ph) {
  GH_CHECK(static_cast<int64_t>(position_p.size()) <= y_ph.rows && y_ph.cols == grouped_ph.cols);
  for (size_t p = 0; p < position_p.size(); ++p)
    std::copy_n(grouped_ph.row(position_p[p]), grouped_ph.cols, y_ph.row(p));
}

}  // namespace guildhall
