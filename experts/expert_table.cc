#include "experts/expert_table.h"

namespace guildhall {

ExpertTable::ExpertTable(const ModelSpec& spec) {
  for (const bool is_moe : spec.is_moe_layer)
    weights_le_.emplace_back(is_moe ? static_cast<size_t>(spec.moe.num_experts) : 0);
  for (const auto& weights_e : weights_le_) view_le_.emplace_back(weights_e.size());
}

void ExpertTable::set(const ExpertStore& store) {
  for (size_t layer = 0; layer < weights_le_.size(); ++layer)
    for (size_t e = 0; e < weights_le_[layer].size(); ++e) {
      const auto l = static_cast<int64_t>(layer), expert = static_cast<int64_t>(e);
      put(l, expert, store.share(l, expert));
    }
}

void ExpertTable::add(std::span<const PlacedExpert> experts) {
  for (const PlacedExpert& e : experts) put(e.layer, e.expert, e.weights);
}

std::vector<PlacedExpert> ExpertTable::remove(const ExpertsOfLayer& experts_l) {
  std::vector<PlacedExpert> removed;
  for (size_t layer = 0; layer < experts_l.size(); ++layer)
    for (const int32_t expert : experts_l[layer]) {
      const auto l = static_cast<int64_t>(layer);
      if (ExpertPtr weights = take(l, expert)) removed.push_back({l, expert, std::move(weights)});
    }
  return removed;
}

ExpertPtr ExpertTable::take(int64_t layer, int64_t expert) {
  ExpertPtr weights = find(layer, expert);
  if (weights) put(layer, expert, nullptr);
  return weights;
}

ExpertPtr ExpertTable::find(int64_t layer, int64_t expert) const {
  if (layer < 0 || layer >= static_cast<int64_t>(weights_le_.size())) return nullptr;
  const auto& weights_e = weights_le_[static_cast<size_t>(layer)];
  if (expert < 0 || expert >= static_cast<int64_t>(weights_e.size())) return nullptr;
  return weights_e[static_cast<size_t>(expert)];
}

std::span<const ExpertWeightView> ExpertTable::of_layer(int64_t layer) const {
  if (layer < 0 || layer >= static_cast<int64_t>(view_le_.size())) return {};
  return view_le_[static_cast<size_t>(layer)];
}

void ExpertTable::put(int64_t layer, int64_t expert, ExpertPtr weights) {
  const auto l = static_cast<size_t>(layer), e = static_cast<size_t>(expert);
  view_le_[l][e] = weights ? weights->view : ExpertWeightView{};
  weights_le_[l][e] = std::move(weights);
}

}  // namespace guildhall
