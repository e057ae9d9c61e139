// device_weight.h: a random weight matrix in both places, in any dtype.
#pragma once

#include <cmath>

#include "tests/cuda/device_array.h"
#include "tests/unit/kernels/kernel_fixture.h"

namespace guildhall {

// Products with x of magnitude 1 are about 1. `shift`: bytes by which it misses a 256-byte boundary.
struct DeviceWeight {
  OwnedWeight host;
  DeviceArray<std::byte> bytes;
  DeviceArray<float> scales;
  WeightView view;

  DeviceWeight(int64_t rows, int64_t cols, DType dtype, uint32_t seed, size_t shift = 0)
      : host(rows, cols, dtype, seed, 1 / std::sqrt(static_cast<float>(cols))),
        bytes(std::span(static_cast<const std::byte*>(host.view.data),
                        static_cast<size_t>(rows * cols * dtype_bytes(dtype))),
              shift),
        scales(host.scales),
        view{bytes.data(), dtype, rows, cols, dtype == DType::e4m3 ? scales.data() : nullptr} {}
};

}  // namespace guildhall
