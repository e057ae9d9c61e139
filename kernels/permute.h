// permute.h: group (row, expert) pairs by expert, and put rows back.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/view.h"

namespace guildhall {

// Counting sort by expert, stable. Pair p goes to grouped position position_p[p]; group e occupies
// [offset_e[e], offset_e[e+1]). expert_p values are in [0, E); offset_e has E+1 entries.
void group_by_expert_ref(std::span<const int32_t> expert_p, std::span<int32_t> offset_e,
                         std::span<int32_t> position_p);
void group_by_expert_cpu(std::span<const int32_t> expert_p, std::span<int32_t> offset_e,
                         std::span<int32_t> position_p);
// The same integers. What a pair names is on the device, where nothing checks it: a value outside [0, E) is
// in no group and leaves its position unwritten.
void group_by_expert_cuda(CudaStream stream, std::span<const int32_t> expert_p, std::span<int32_t> offset_e,
                          std::span<int32_t> position_p);

// grouped_ph[position_p[p]] = x_th[row_p[p]].
void permute_ref(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
                 View2<float> grouped_ph);
void permute_cpu(View2<const float> x_th, std::span<const int32_t> row_p, std::span<const int32_t> position_p,
                 View2<float> grouped_ph);
// Rows and positions are on the device, where nothing checks them.
void permute_cuda(CudaStream stream, View2<const float> x_th, std::span<const int32_t> row_p,
                  std::span<const int32_t> position_p, View2<float> grouped_ph);

// y_ph[p] = grouped_ph[position_p[p]].
void unpermute_ref(View2<const float> grouped_ph, std::span<const int32_t> position_p, View2<float> y_ph);
void unpermute_cpu(View2<const float> grouped_ph, std::span<const int32_t> position_p, View2<float> y_ph);
// Also what gathers chosen rows (a step's last tokens).
void unpermute_cuda(CudaStream stream, View2<const float> grouped_ph, std::span<const int32_t> position_p,
                    View2<float> y_ph);

}  // namespace guildhall
