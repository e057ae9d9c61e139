// sampling_ref.cc: sampling by sorting the whole vocabulary; the generator; log-probabilities.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/philox.h"
#include "kernels/sampling.h"
#include "kernels/sampling_weight.h"

namespace guildhall {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Most likely first, ties by id; a NaN counts as -inf.
std::vector<int32_t> ids_in_order(std::span<const float> logits_v) {
  std::vector<int32_t> ids(logits_v.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto value = [&](int32_t id) { return std::isnan(logits_v[id]) ? kNever : logits_v[id]; };
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
  return ids;
}

}  // namespace

double sampling_uniform(uint64_t seed, uint64_t position) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const auto random = philox4x32_10({low(position), high(position), 0, 0}, {low(seed), high(seed)});
  const uint64_t bits = (uint64_t{random[0]} << 32 | random[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

int32_t sample_ref(std::span<const float> logits_v, const SamplingRule& rule, double u) {
  std::vector<int32_t> ids = ids_in_order(logits_v);
  const float max = logits_v[ids[0]];
  if (rule.temperature == 0 || !(max > kNever)) return ids[0];
  const auto probability = [&](int32_t id) {
    return sampling_probability(logits_v[id], max, 1 / rule.temperature);
  };
  std::erase_if(ids, [&](int32_t id) { return !(probability(id) >= least_probability(rule.min_p)); });
  if (rule.top_k > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(rule.top_k)));

  std::vector<uint64_t> cumulative;
  uint64_t sum = 0;
  for (int32_t id : ids) cumulative.push_back(sum += sampling_weight(probability(id)));
  const auto nucleus_end =
      std::lower_bound(cumulative.begin(), cumulative.end(), nucleus_mass(rule.top_p, sum));
  const uint64_t target = target_mass(u, *nucleus_end);
  return ids[std::upper_bound(cumulative.begin(), cumulative.end(), target) - cumulative.begin()];
}

float log_sum_exp_ref(std::span<const float> logits_v) {
  const float max = *std::max_element(logits_v.begin(), logits_v.end());
  if (std::isinf(max)) return max;
  double sum = 0;
  for (float logit : logits_v) sum += std::exp(static_cast<double>(logit) - max);
  return static_cast<float>(max + std::log(sum));
}

std::vector<int32_t> top_n(std::span<const float> logits_v, int n) {
  const auto value = [&](int32_t id) { return std::isnan(logits_v[id]) ? kNever : logits_v[id]; };
  const auto better = [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  };
  const size_t count = std::min(logits_v.size(), static_cast<size_t>(std::max(n, 0)));
  // A heap of the best so far, its worst on top; most logits fail the one comparison with it.
  std::vector<int32_t> best;
  best.reserve(count);
  for (size_t v = 0; v < logits_v.size() && count > 0; ++v) {
    const auto id = static_cast<int32_t>(v);
    if (best.size() == count) {
      if (!better(id, best.front())) continue;
      std::pop_heap(best.begin(), best.end(), better);
      best.pop_back();
    }
    best.push_back(id);
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort_heap(best.begin(), best.end(), better);
  return best;
}

}  // namespace guildhall
