// combine.h: y_th[t] += sum over k of weight_tk[t,k] * row(t,k), in gate order k = 0..K-1, fp32.
// rows(t,k) is rows_ph[index_tk[t,k]]; a negative index contributes nothing.
// Summing in gate order makes the bits independent of where the experts live.
#pragma once

#include <cstdint>

#include "kernels/cuda/stream.h"
#include "kernels/view.h"

namespace guildhall {

void combine_ref(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
                 View2<float> y_th);
void combine_cpu(View2<const float> rows_ph, View2<const int32_t> index_tk, View2<const float> weight_tk,
                 View2<float> y_th);
// The same bits.
void combine_cuda(CudaStream stream, View2<const float> rows_ph, View2<const int32_t> index_tk,
                  View2<const float> weight_tk, View2<float> y_th);

}  // namespace guildhall
