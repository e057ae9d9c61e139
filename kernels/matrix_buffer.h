// matrix_buffer.h: memory for a matrix whose shape changes from step to step; grows to its largest once, so
// that a warmed-up step allocates nothing. Contents are undefined after view(). One owner thread.
#pragma once

#include <vector>

#include "kernels/view.h"

namespace guildhall {

class MatrixBuffer {
 public:
  View2<float> view(int64_t rows, int64_t cols) {
    const auto size = static_cast<size_t>(rows * cols);
    if (data_.size() < size) data_.resize(size);
    return {data_.data(), rows, cols};
  }

 private:
  std::vector<float> data_;
};

}  // namespace guildhall
