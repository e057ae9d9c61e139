// blas.cc: the scratch memory of products, whatever library makes them.
#include "kernels/cuda/blas.h"

#include "kernels/cuda/host_wait.h"

namespace guildhall {

Result<void> Blas::reserve(int64_t bytes) {
  if (bytes <= scratch_bytes_) return {};
  GraphRecording::refuse("Blas::scratch grows");
  scratch_.reset();
  scratch_bytes_ = 0;
  GH_ASSIGN(scratch_, memory_.allocate(bytes));
  scratch_bytes_ = bytes;
  return {};
}

std::byte* Blas::scratch(int64_t bytes) {
  reserve(bytes).value();
  return scratch_.get();
}

}  // namespace guildhall
