// rope_table.cc: inverse frequencies under each scaling rule, and the cos/sin table made from them.
// Computed in double: positions reach 1e6, where a float angle has lost four digits.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "kernels/rope.h"

namespace guildhall {
namespace {

// YaRN: dimension pairs that turn more than beta_fast times over the original context keep their frequency,
// those that turn less than beta_slow times are slowed by `factor`, and a linear ramp joins the two.
void scale_yarn(const RopeParams& p, std::vector<double>& inverse_d) {
  // The (fractional) pair index that turns `rotations` times over the original context.
  const auto pair_index_of = [&](double rotations) {
    return static_cast<double>(p.dim) *
           std::log(static_cast<double>(p.original_max_position) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(p.theta));
  };
  double low = pair_index_of(p.beta_fast), high = pair_index_of(p.beta_slow);
  if (p.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(p.dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse_d.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse_d[i] = inverse_d[i] * (1 - ramp) + inverse_d[i] / p.factor * ramp;
  }
}

// llama3: by wavelength; short ones are kept, long ones slowed, and those between interpolated.
void scale_llama3(const RopeParams& p, std::vector<double>& inverse_d) {
  const auto original = static_cast<double>(p.original_max_position);
  for (double& inverse : inverse_d) {
    const double wavelength = 2 * std::numbers::pi / inverse;
    if (wavelength < original / p.high_freq_factor) continue;
    if (wavelength > original / p.low_freq_factor) {
      inverse /= p.factor;
      continue;
    }
    const double smooth =
        (original / wavelength - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
    inverse *= (1 - smooth) / p.factor + smooth;
  }
}

}  // namespace

std::vector<double> rope_inverse_frequencies(const RopeParams& params) {
  GH_CHECK(params.dim > 0 && params.dim % 2 == 0);
  std::vector<double> inverse_d(static_cast<size_t>(params.dim / 2));
  for (size_t i = 0; i < inverse_d.size(); ++i)
    inverse_d[i] = std::pow(params.theta, -2.0 * static_cast<double>(i) / static_cast<double>(params.dim));
  switch (params.scaling) {
    case RopeScaling::none:
      break;
    case RopeScaling::linear:
      for (double& inverse : inverse_d) inverse /= params.factor;
      break;
    case RopeScaling::yarn:
      scale_yarn(params, inverse_d);
      break;
    case RopeScaling::llama3:
      scale_llama3(params, inverse_d);
      break;
  }
  return inverse_d;
}

RopeTable make_rope_table(const RopeParams& params, int64_t num_positions) {
  const std::vector<double> inverse_d = rope_inverse_frequencies(params);
  // Only YaRN defines attention_factor.
  const double amplitude = params.scaling == RopeScaling::yarn ? params.attention_factor : 1.0;
  RopeTable table{params.dim, num_positions, {}, {}};
  table.cos_pd.reserve(static_cast<size_t>(num_positions) * inverse_d.size());
  table.sin_pd.reserve(static_cast<size_t>(num_positions) * inverse_d.size());
  for (int64_t p = 0; p < num_positions; ++p) {
    for (double inverse : inverse_d) {
      const double angle = static_cast<double>(p) * inverse;
      table.cos_pd.push_back(static_cast<float>(std::cos(angle) * amplitude));
      table.sin_pd.push_back(static_cast<float>(std::sin(angle) * amplitude));
    }
  }
  return table;
}

}  // namespace guildhall
