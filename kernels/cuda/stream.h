// stream.h: the name of a CUDA stream where no CUDA header may be needed. A null stream is CUDA's default
// stream.
#pragma once

struct CUstream_st;

namespace guildhall {

using CudaStream = struct ::CUstream_st*;  // == cudaStream_t

}  // namespace guildhall
