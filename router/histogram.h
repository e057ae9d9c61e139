// histogram.h: how often a quantity fell into which range. One thread observes; others read copies.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

namespace guildhall {

class Histogram {
 public:
  static constexpr size_t kMaxBounds = 24;

  // `bounds` are the buckets' upper ends, inclusive and ascending, at most kMaxBounds; they outlive the
  // histogram. What is above the last one has a bucket of its own.
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds) {
    assert(bounds.size() <= kMaxBounds);
  }

  void observe(double value, int64_t times = 1) {
    const auto bucket = std::ranges::lower_bound(bounds_, value) - bounds_.begin();
    count_[static_cast<size_t>(bucket)] += times;
    sum_ += value * static_cast<double>(times);
  }

  // What another one of the same bounds observed.
  void add(const Histogram& other) {
    for (size_t i = 0; i < count_.size(); ++i) count_[i] += other.count_[i];
    sum_ += other.sum_;
  }

  std::span<const double> bounds() const { return bounds_; }
  int64_t count(size_t bucket) const { return count_[bucket]; }  // bucket <= bounds().size()
  double sum() const { return sum_; }
  int64_t total() const {
    int64_t total = 0;
    for (const int64_t count : count_) total += count;
    return total;
  }

 private:
  std::span<const double> bounds_;
  std::array<int64_t, kMaxBounds + 1> count_{};
  double sum_ = 0;
};

}  // namespace guildhall
