// step_window.h: a sum over the newest steps that slides by eighths of its length, so that its memory does
// not grow with it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>

namespace guildhall {

// Part: copyable, with += over parts of the same shape. One thread; a copy is cheap (it shares all but the
// part that is being filled) and may be summed up by another thread.
template <class Part>
class StepWindow {
 public:
  // `empty` is the part that holds no step yet. Holds the newest 7/8 to 8/8 of window_steps, once there were
  // that many.
  StepWindow(Part empty, int64_t window_steps)
      : empty_(std::make_shared<const Part>(std::move(empty))), current_{*empty_, 0} {
    set_window_steps(window_steps);
  }

  // Where the next step is to be added.
  Part& open_step() {
    if (current_.num_steps == steps_per_part_) close_part();
    ++current_.num_steps;
    return current_.part;
  }

  // Forgets what is too old for a shorter window at once; a longer one fills up.
  void set_window_steps(int64_t window_steps) {
    window_steps_ = window_steps;
    steps_per_part_ = std::max<int64_t>(1, window_steps / kParts);
    if (current_.num_steps > steps_per_part_) close_part();
    while (!closed_.empty() && num_steps() > window_steps) closed_.pop_front();
  }
  int64_t window_steps() const { return window_steps_; }

  Part sum() const {
    Part sum = current_.part;
    for (const auto& part : closed_) sum += part->part;
    return sum;
  }

  int64_t num_steps() const {
    int64_t steps = current_.num_steps;
    for (const auto& part : closed_) steps += part->num_steps;
    return steps;
  }

 private:
  static constexpr int64_t kParts = 8;
  struct Counted {
    Part part;
    int64_t num_steps = 0;
  };

  void close_part() {
    closed_.push_back(std::make_shared<const Counted>(std::exchange(current_, Counted{*empty_, 0})));
    while (num_steps() - closed_.front()->num_steps >= (kParts - 1) * steps_per_part_) closed_.pop_front();
  }

  std::shared_ptr<const Part> empty_;
  int64_t window_steps_ = 0, steps_per_part_ = 1;
  std::deque<std::shared_ptr<const Counted>> closed_;  // oldest first
  Counted current_;
};

}  // namespace guildhall
