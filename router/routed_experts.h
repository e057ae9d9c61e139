// routed_experts.h: which experts the gates chose for the tokens of requests that ask: recorded while a step
// runs, row by row. Nothing is recorded, and nothing allocated, for a step that nobody asked about. Owner:
// the engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/view.h"
#include "model/spec.h"

namespace guildhall {

// What one token's choices are: [num_layers, top_k] ids, of the layers that have experts, in gate order.
struct RoutingShape {
  int64_t num_layers = 0, top_k = 0;
  int64_t ids_per_token() const { return num_layers * top_k; }
};
RoutingShape routing_shape(const ModelSpec& spec);

// In place of a token's ids: it was in the KV cache, and no gate saw it. Above kMaxExperts.
inline constexpr uint16_t kNotRouted = 0xFFFF;

class RoutedExperts {
 public:
  explicit RoutedExperts(const ModelSpec& spec);

  // A step begins. Its rows whose choices are wanted, ascending; they outlive the step.
  void begin(std::span<const int32_t> row_i);
  bool wanted() const { return !row_i_.empty(); }
  // A layer's choices of rows from first_row on, at the host.
  void record(int64_t layer, int64_t first_row, View2<const int32_t> expert_tk);

  // The step's: ids of `count` wanted rows from the i-th on, [count, num_layers, top_k].
  std::span<const uint16_t> ids(int64_t i, int64_t count) const;
  const RoutingShape& shape() const { return shape_; }

 private:
  const RoutingShape shape_;
  std::vector<int64_t> routed_layer_l_;  // [L] how many layers before have experts
  std::span<const int32_t> row_i_;
  std::vector<uint16_t> ids_;
};

}  // namespace guildhall
