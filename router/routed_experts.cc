#include "router/routed_experts.h"

#include <algorithm>

#include "base/check.h"

namespace guildhall {

RoutingShape routing_shape(const ModelSpec& spec) {
  const auto num_layers = std::ranges::count(spec.is_moe_layer, true);
  return {num_layers, num_layers > 0 ? spec.moe.top_k : 0};
}

RoutedExperts::RoutedExperts(const ModelSpec& spec) : shape_(routing_shape(spec)) {
  int64_t before = 0;
  for (const bool has_experts : spec.is_moe_layer) {
    routed_layer_l_.push_back(before);
    before += has_experts;
  }
}

void RoutedExperts::begin(std::span<const int32_t> row_i) {
  row_i_ = row_i;
  if (wanted()) ids_.resize(row_i.size() * static_cast<size_t>(shape_.ids_per_token()));
}

void RoutedExperts::record(int64_t layer, int64_t first_row, View2<const int32_t> expert_tk) {
  const int64_t at = routed_layer_l_[static_cast<size_t>(layer)] * shape_.top_k;
  auto i = std::ranges::lower_bound(row_i_, first_row) - row_i_.begin();
  for (; i < std::ssize(row_i_); ++i) {
    const int64_t t = row_i_[static_cast<size_t>(i)] - first_row;
    if (t >= expert_tk.rows) return;
    uint16_t* const ids = ids_.data() + i * shape_.ids_per_token() + at;
    for (int64_t k = 0; k < shape_.top_k; ++k) ids[k] = static_cast<uint16_t>(expert_tk(t, k));
  }
}

std::span<const uint16_t> RoutedExperts::ids(int64_t i, int64_t count) const {
  GH_CHECK(i >= 0 && i + count <= std::ssize(row_i_));
  const auto per_token = static_cast<size_t>(shape_.ids_per_token());
  return std::span(ids_).subspan(static_cast<size_t>(i) * per_token, static_cast<size_t>(count) * per_token);
}

}  // namespace guildhall
