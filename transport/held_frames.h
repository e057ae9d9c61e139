// held_frames.h: frames that a handler keeps beyond the poll that brought them, by index. Indices are reused,
// so that steady state allocates nothing. One thread.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace guildhall {

template <class Frame>
class HeldFrames {
 public:
  uint32_t put(Frame frame) {
    if (free_.empty()) {
      frames_.push_back(std::move(frame));
      return static_cast<uint32_t>(frames_.size() - 1);
    }
    const uint32_t idx = free_.back();
    free_.pop_back();
    frames_[idx] = std::move(frame);
    return idx;
  }
  Frame take(uint32_t idx) {
    free_.push_back(idx);
    return std::move(frames_[idx]);
  }

 private:
  std::vector<Frame> frames_;
  std::vector<uint32_t> free_;
};

}  // namespace guildhall
