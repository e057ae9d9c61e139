// sampling_cpu.cc: sampling without sorting the vocabulary; sample_ref's result, always.
// A histogram over the logits holds each bucket's count and mass. Any point of the cumulative distribution
// (the end of the top k, the end of the nucleus, the draw) lies in one bucket, and only that bucket's members
// are put in order, by selection that follows the half the point lies in.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/sampling.h"
#include "kernels/sampling_weight.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(float max_logit(const float* logits, int64_t n);
           void sampling_probabilities(const float* logits, int64_t n, float top, float inverse_temperature,
                                       float bucket_scale, int32_t num_buckets, float least,
                                       float* probability_v, int32_t* bucket_v);
           int64_t ids_in_bucket(const int32_t* bucket_v, int64_t n, int32_t bucket, int32_t* ids);
           double sum_exp(const float* logits, int64_t n, float top);)

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int kNumBuckets = 1024;   // 16 KiB of histogram: half of the nearest cache
constexpr float kBucketRange = 30;  // in units of the temperature; sampling_exp drops what is further down

struct Bucket {
  uint64_t mass = 0;
  int64_t count = 0;
};

// A place in the order "most likely first, ties by id": a token, how many tokens come before it, and their
// mass.
struct Place {
  int32_t id;
  int64_t count_before;
  uint64_t mass_before, mass;
};

// Ascending keys are descending logits, then ascending ids. -0 counts as 0, as in comparisons of floats.
uint64_t order_key(float logit, int32_t id) {
  const auto u = std::bit_cast<uint32_t>(logit + 0.0f);
  const uint32_t ascending = (u >> 31) != 0 ? ~u : u | 0x80000000u;
  return uint64_t{~ascending} << 32 | static_cast<uint32_t>(id);
}

class Cumulative {
 public:
  // The logits are borrowed until the next prepare.
  void prepare(std::span<const float> logits_v, float max, float inverse_temperature, float least) {
    logits_v_ = logits_v;
    if (probability_v_.size() < logits_v.size()) {
      probability_v_.resize(logits_v.size());
      bucket_v_.resize(logits_v.size());
      ids_.resize(logits_v.size());
      members_.reserve(logits_v.size());
    }
    GH_PICK(sampling_probabilities)
    (logits_v.data(), static_cast<int64_t>(logits_v.size()), max, inverse_temperature,
     inverse_temperature * (kNumBuckets / kBucketRange), kNumBuckets, least, probability_v_.data(),
     bucket_v_.data());
    buckets_.fill({});
    for (size_t v = 0; v < logits_v.size(); ++v) {
      Bucket& bucket = buckets_[bucket_v_[v]];
      bucket.mass += sampling_weight(probability_v_[v]);
      ++bucket.count;
    }
  }

  uint64_t total() const {
    uint64_t sum = 0;
    for (int b = 0; b < kNumBuckets; ++b) sum += buckets_[b].mass;
    return sum;
  }

  // The mass of the first `count` tokens.
  uint64_t mass_of_first(int64_t count) {
    uint64_t mass = 0;
    int64_t before = 0;
    for (int b = 0; b < kNumBuckets; ++b) {
      if (before + buckets_[b].count > count)
        return mass + find(b, [&](const Bucket& left) { return before + left.count > count; }).mass_before;
      before += buckets_[b].count;
      mass += buckets_[b].mass;
    }
    return mass;
  }

  // The token in whose share the unit `target` < total() lies; its masses count from the beginning.
  Place at_mass(uint64_t target) {
    uint64_t mass = 0;
    int b = 0;
    for (; mass + buckets_[b].mass <= target; ++b) mass += buckets_[b].mass;
    Place place = find(b, [&](const Bucket& left) { return mass + left.mass > target; });
    place.mass_before += mass;
    return place;
  }

 private:
  uint64_t weight_of(uint64_t key) const {
    return sampling_weight(probability_v_[static_cast<uint32_t>(key)]);
  }

  // The first token of bucket b at which `reached` (monotone in the bucket's own running count and mass,
  // that token's included) is true. Expected time linear in the bucket.
  template <class Reached>
  Place find(int b, const Reached& reached) {
    const int64_t count =
        GH_PICK(ids_in_bucket)(bucket_v_.data(), static_cast<int64_t>(logits_v_.size()), b, ids_.data());
    members_.clear();
    for (int64_t i = 0; i < count; ++i) members_.push_back(order_key(logits_v_[ids_[i]], ids_[i]));
    auto begin = members_.begin(), end = members_.end();
    Bucket before;
    while (end - begin > 1) {
      const auto middle = begin + (end - begin) / 2;
      std::nth_element(begin, middle, end);
      Bucket left = before;
      for (auto it = begin; it != middle; ++it) left.mass += weight_of(*it);
      left.count += middle - begin;
      if (reached(left)) {
        end = middle;
      } else {
        before = left;
        begin = middle;
      }
    }
    return {static_cast<int32_t>(static_cast<uint32_t>(*begin)), before.count, before.mass,
            weight_of(*begin)};
  }

  std::span<const float> logits_v_;
  // Each grows to the largest V seen.
  std::vector<float> probability_v_;
  std::vector<int32_t> bucket_v_;
  std::vector<int32_t> ids_;                     // of one bucket
  std::vector<uint64_t> members_;                // order keys of one bucket
  std::array<Bucket, kNumBuckets + 1> buckets_;  // the last: dropped tokens
};

int32_t first_with(std::span<const float> logits_v, float value) {
  const auto it = std::find(logits_v.begin(), logits_v.end(), value);
  return it == logits_v.end() ? 0 : static_cast<int32_t>(it - logits_v.begin());
}

}  // namespace

int32_t sample_cpu(std::span<const float> logits_v, const SamplingRule& rule, double u) {
  GH_CHECK(!logits_v.empty() && rule.temperature >= 0 && rule.top_p > 0 && rule.min_p >= 0 &&
           rule.min_p <= 1 && u >= 0 && u < 1);
  const float max = GH_PICK(max_logit)(logits_v.data(), static_cast<int64_t>(logits_v.size()));
  if (rule.temperature == 0 || rule.top_k == 1 || !(max > kNever)) return first_with(logits_v, max);

  thread_local Cumulative cumulative;
  cumulative.prepare(logits_v, max, 1 / rule.temperature, least_probability(rule.min_p));
  uint64_t mass = rule.top_k > 0 ? cumulative.mass_of_first(rule.top_k) : cumulative.total();
  if (rule.top_p < 1) {
    const Place last = cumulative.at_mass(nucleus_mass(rule.top_p, mass) - 1);
    mass = last.mass_before + last.mass;
  }
  return cumulative.at_mass(target_mass(u, mass)).id;
}

float log_sum_exp_cpu(std::span<const float> logits_v) {
  const auto n = static_cast<int64_t>(logits_v.size());
  const float max = GH_PICK(max_logit)(logits_v.data(), n);
  if (std::isinf(max)) return max;
  return static_cast<float>(max + std::log(GH_PICK(sum_exp)(logits_v.data(), n, max)));
}

}  // namespace guildhall
