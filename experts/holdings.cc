#include "experts/holdings.h"

#include <fmt/format.h>

#include <algorithm>

namespace guildhall {

Result<ExpertsOfLayer> read_experts(const google::protobuf::RepeatedPtrField<control::LayerExperts>& layers,
                                    const ModelSpec& spec, const std::string& what) {
  ExpertsOfLayer experts_l(static_cast<size_t>(spec.num_layers));
  for (const control::LayerExperts& entry : layers) {
    if (entry.layer() >= experts_l.size() || !spec.is_moe_layer[entry.layer()])
      return Status{Code::invalid_argument, fmt::format("{}: layer {} has no experts", what, entry.layer())};
    auto& layer = experts_l[entry.layer()];
    for (const uint32_t expert : entry.experts()) {
      if (expert >= spec.moe.num_experts || (!layer.empty() && static_cast<int32_t>(expert) <= layer.back()))
        return Status{Code::invalid_argument, fmt::format("{}: layer {}: expert {} is out of order or range",
                                                          what, entry.layer(), expert)};
      layer.push_back(static_cast<int32_t>(expert));
    }
  }
  return experts_l;
}

ExpertHoldings::ExpertHoldings(const ModelSpec& spec) {
  for (const bool is_moe : spec.is_moe_layer)
    state_le_.emplace_back(is_moe ? static_cast<size_t>(spec.moe.num_experts) : 0, State::absent);
}

void ExpertHoldings::set(const ExpertsOfLayer& experts_l, State state) {
  for (size_t layer = 0; layer < experts_l.size(); ++layer)
    for (const int32_t expert : experts_l[layer]) state_le_[layer][static_cast<size_t>(expert)] = state;
}

ExpertsOfLayer ExpertHoldings::among(const ExpertsOfLayer& experts_l, State wanted) const {
  ExpertsOfLayer found_l(experts_l.size());
  for (size_t layer = 0; layer < experts_l.size(); ++layer)
    for (const int32_t expert : experts_l[layer])
      if (state(layer, expert) == wanted) found_l[layer].push_back(expert);
  return found_l;
}

int64_t ExpertHoldings::num_resident() const {
  int64_t count = 0;
  for (const auto& state_e : state_le_)
    count += std::ranges::count_if(state_e, [](State s) { return s != State::absent; });
  return count;
}

control::Holdings ExpertHoldings::message() const {
  control::Holdings message;
  message.set_version(version_);
  for (size_t layer = 0; layer < state_le_.size(); ++layer) {
    control::LayerExperts entry;
    entry.set_layer(static_cast<uint32_t>(layer));
    for (size_t e = 0; e < state_le_[layer].size(); ++e)
      if (state_le_[layer][e] == State::held) entry.add_experts(static_cast<uint32_t>(e));
    if (entry.experts_size() > 0) *message.add_layers() = std::move(entry);
  }
  return message;
}

}  // namespace guildhall
