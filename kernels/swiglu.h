// swiglu.h: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020). gate_up_t2f rows hold
// [gate (F) | up (F)]; y_tf may not alias.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

void swiglu_ref(View2<const float> gate_up_t2f, View2<float> y_tf);
void swiglu_cpu(Team& team, View2<const float> gate_up_t2f, View2<float> y_tf);
// Within 1e-6 of ref.
void swiglu_cuda(CudaStream stream, View2<const float> gate_up_t2f, View2<float> y_tf);

}  // namespace guildhall
