// view.h: borrowed, strided matrices. A view owns nothing; whoever made it keeps the memory alive.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/host_device.h"

namespace guildhall {

// rows x cols, row-major; `stride` elements from one row to the next (>= cols).
template <class T>
struct View2 {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  View2() = default;
  GH_HOST_DEVICE View2(T* data, int64_t rows, int64_t cols) : View2(data, rows, cols, cols) {}
  GH_HOST_DEVICE View2(T* data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}
  // Made only where T is not const: CUDA's compiler warns of a conversion that could never be called.
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) GH_HOST_DEVICE operator View2<U>() const {
    return {data, rows, cols, stride};
  }

  GH_HOST_DEVICE T* row(int64_t r) const { return data + r * stride; }
  GH_HOST_DEVICE T& operator()(int64_t r, int64_t c) const { return data[r * stride + c]; }
  GH_HOST_DEVICE View2 first_rows(int64_t n) const { return {data, n, cols, stride}; }
  GH_HOST_DEVICE View2 sub_rows(int64_t begin, int64_t n) const { return {row(begin), n, cols, stride}; }
  GH_HOST_DEVICE View2 sub_cols(int64_t begin, int64_t n) const { return {data + begin, rows, n, stride}; }
};

// dim0 x dim1 x dim2; the last dimension is contiguous.
template <class T>
struct View3 {
  T* data = nullptr;
  int64_t dim0 = 0, dim1 = 0, dim2 = 0, stride0 = 0, stride1 = 0;

  View3() = default;
  GH_HOST_DEVICE View3(T* data, int64_t dim0, int64_t dim1, int64_t dim2)
      : View3(data, dim0, dim1, dim2, dim1 * dim2, dim2) {}
  GH_HOST_DEVICE View3(T* data, int64_t dim0, int64_t dim1, int64_t dim2, int64_t stride0, int64_t stride1)
      : data(data), dim0(dim0), dim1(dim1), dim2(dim2), stride0(stride0), stride1(stride1) {}
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) GH_HOST_DEVICE operator View3<U>() const {
    return {data, dim0, dim1, dim2, stride0, stride1};
  }

  GH_HOST_DEVICE T* at(int64_t i, int64_t j) const { return data + i * stride0 + j * stride1; }
  GH_HOST_DEVICE View3 sub2(int64_t begin, int64_t n) const {
    return {data + begin, dim0, dim1, n, stride0, stride1};
  }
};

}  // namespace guildhall
