// store_pointers.h: a table of pointers on the device, without a copy whose source would have to stay.
#pragma once

#include <span>

#include "kernels/cuda/stream.h"

namespace guildhall {

// to[i] = pointers[i]. They travel as arguments of kernels, so the host's array may go when the call returns.
void store_pointers_cuda(CudaStream stream, std::span<const void* const> pointers, const void** to);

}  // namespace guildhall
