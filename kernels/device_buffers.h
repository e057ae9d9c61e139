// device_buffers.h: working memory of a step, on the device and mirrored on the host. Buffers grow to their
// largest shape once, so that a warmed-up step allocates nothing; views of a buffer that grows are lost. That
// there is memory for them is seen to before a step runs; a refusal here is a bug. Owner: the Ops' thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "kernels/ops.h"

namespace guildhall {

// A matrix on the device whose shape changes from step to step. Contents are undefined after view().
template <class T>
class DeviceMatrix {
 public:
  explicit DeviceMatrix(Ops& ops) : memory_(ops.memory()) {}

  View2<T> view(int64_t rows, int64_t cols) {
    const int64_t bytes = rows * cols * static_cast<int64_t>(sizeof(T));
    if (bytes > bytes_) {
      data_.reset();
      data_ = memory_.allocate(bytes).value();
      bytes_ = bytes;
    }
    return {reinterpret_cast<T*>(data_.get()), rows, cols};
  }

 private:
  DeviceMemory& memory_;
  MemoryBlock data_;
  int64_t bytes_ = 0;
};

// The host's side of a device's matrix: pinned memory, written by one transfer at a time. On the CPU it is
// the matrix itself.
template <class T>
class HostMatrix {
 public:
  explicit HostMatrix(Ops& ops) : ops_(ops) {}

  // The host's copy of `device`, to be read after wait(). Dense rows.
  View2<T> download(View2<T> device) {
    if (ops_.memory().is_host()) return device;
    const View2<T> host = view(device.rows, device.cols);
    GH_CHECK(device.stride == device.cols);
    ops_.download(device.data, host.data, bytes_of(host));
    last_ = ops_.mark();
    return host;
  }
  // Where the host writes what upload() then sends; the last transfer is over.
  View2<T> view(int64_t rows, int64_t cols) {
    const int64_t bytes = rows * cols * static_cast<int64_t>(sizeof(T));
    ops_.wait(last_, "wait buffer");
    if (bytes > bytes_) {
      data_.reset();
      data_ = ops_.memory().allocate_pinned(bytes).value();
      bytes_ = bytes;
    }
    return {reinterpret_cast<T*>(data_.get()), rows, cols};
  }
  // What view() gave, written, as the device sees it: in `device`, or on the CPU where it is.
  View2<T> upload(View2<T> host, DeviceMatrix<T>& device) {
    if (ops_.memory().is_host()) return host;
    const View2<T> there = device.view(host.rows, host.cols);
    ops_.upload(host.data, there.data, bytes_of(host));
    last_ = ops_.mark();
    return there;
  }
  // Returns when the last transfer is over.
  void wait(const char* what) { ops_.wait(last_, what); }

 private:
  static size_t bytes_of(View2<T> m) { return static_cast<size_t>(m.rows * m.cols) * sizeof(T); }

  Ops& ops_;
  MemoryBlock data_;
  int64_t bytes_ = 0;
  Ops::Mark last_ = 0;
};

// Returns when all kernels enqueued so far are over, which no mark says by itself: a transfer is behind them.
class KernelFence {
 public:
  explicit KernelFence(Ops& ops) : behind_(ops) {}
  // `something` is 4 bytes of the device's memory.
  void wait(const float* something, const char* what) {
    behind_.download({const_cast<float*>(something), 1, 1});
    behind_.wait(what);
  }

 private:
  HostMatrix<float> behind_;
};

// Small arrays that go to the device together, in one transfer: ids, positions, block tables. Each has room
// of its own, so that its address on the device changes only when one outgrows its room. On the CPU the
// arrays stay where the host has them.
template <size_t N>
class DeviceArrays {
 public:
  // The room of each, in elements. The longest best comes last: what lies between is copied too.
  DeviceArrays(Ops& ops, const std::array<int64_t, N>& room_i) : ops_(ops), room_i_(room_i) { place(); }

  void upload(const std::array<std::span<const int32_t>, N>& host_i) {
    if (ops_.memory().is_host()) {
      array_i_ = host_i;
      return;
    }
    ops_.wait(last_, "wait buffer");
    bool grown = false;
    for (size_t i = 0; i < N; ++i) {
      const auto size = static_cast<int64_t>(host_i[i].size());
      grown |= size > room_i_[i];
      room_i_[i] = std::max(room_i_[i], size);
    }
    if (grown) place();
    int64_t begin = 0, end = 0;
    for (size_t i = 0; i < N; begin += room_i_[i++]) {
      std::copy(host_i[i].begin(), host_i[i].end(), host() + begin);
      array_i_[i] = {device() + begin, host_i[i].size()};
      if (!host_i[i].empty()) end = begin + static_cast<int64_t>(host_i[i].size());
    }
    ops_.upload(host(), device(), static_cast<size_t>(end) * sizeof(int32_t));
    last_ = ops_.mark();
  }

  std::span<const int32_t> operator[](size_t i) const { return array_i_[i]; }

 private:
  void place() {
    if (ops_.memory().is_host()) return;
    int64_t total = 0;
    for (int64_t& room : room_i_) total += room = (room + 15) / 16 * 16;  // 64-byte alignment
    const int64_t bytes = total * static_cast<int64_t>(sizeof(int32_t));
    host_ = ops_.memory().allocate_pinned(bytes).value();
    std::memset(host_.get(), 0, static_cast<size_t>(bytes));  // what lies between is copied too
    device_.reset();
    device_ = ops_.memory().allocate(bytes).value();
  }
  int32_t* host() { return reinterpret_cast<int32_t*>(host_.get()); }
  int32_t* device() { return reinterpret_cast<int32_t*>(device_.get()); }

  Ops& ops_;
  std::array<int64_t, N> room_i_;
  std::array<std::span<const int32_t>, N> array_i_;
  MemoryBlock host_, device_;
  Ops::Mark last_ = 0;
};

}  // namespace guildhall
