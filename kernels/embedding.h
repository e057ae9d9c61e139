// embedding.h: x_th[t] = W_vh[ids_t[t]], or 0 where the id is -1: a row that another rank's part of the table
// has. Ids are in [-1, V). Threads: the caller's only.
#pragma once

#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/dtype.h"
#include "kernels/view.h"

namespace guildhall {

void embedding_ref(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th);
void embedding_cpu(std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th);
// The same bits. Ids are on the device, where nothing checks them.
void embedding_cuda(CudaStream stream, std::span<const int32_t> ids_t, WeightView w_vh, View2<float> x_th);

}  // namespace guildhall
