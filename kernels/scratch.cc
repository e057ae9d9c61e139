// scratch.cc: one growing aligned buffer per thread.
#include "kernels/scratch.h"

#include <cstdlib>
#include <memory>

#include "base/check.h"

namespace guildhall {

float* thread_scratch(int64_t num_floats) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> buffer;
  thread_local int64_t size = 0;
  if (num_floats > size) {
    constexpr int64_t kFloatsPerLine = 16;
    size = (num_floats + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine;
    buffer.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(size) * sizeof(float))));
    GH_CHECK(buffer != nullptr);
  }
  return buffer.get();
}

}  // namespace guildhall
