// expert_store.cc: loading the routed experts that a placement gives one process.
#include <fmt/format.h>

#include <algorithm>

#include "model/load_plan.h"
#include "model/weights.h"

namespace guildhall {
namespace {

Result<void> check_request(const ModelSpec& spec, const std::vector<std::vector<int32_t>>& experts_of_layer) {
  if (static_cast<int64_t>(experts_of_layer.size()) != spec.num_layers)
    return Status{Code::invalid_argument, fmt::format("experts were listed for {} layers of a model with {}",
                                                      experts_of_layer.size(), spec.num_layers)};
  for (size_t layer = 0; layer < experts_of_layer.size(); ++layer) {
    const std::vector<int32_t>& experts = experts_of_layer[layer];
    if (!experts.empty() && !spec.is_moe_layer[layer])
      return Status{Code::invalid_argument,
                    fmt::format("layer {} has no experts, but some were asked for", layer)};
    for (size_t i = 0; i < experts.size(); ++i) {
      if (experts[i] < 0 || experts[i] >= spec.moe.num_experts)
        return Status{Code::invalid_argument, fmt::format("layer {} has no expert {}: there are {}", layer,
                                                          experts[i], spec.moe.num_experts)};
      if (i > 0 && experts[i] <= experts[i - 1])
        return Status{Code::invalid_argument,
                      fmt::format("layer {}: experts must be listed once each, in order", layer)};
    }
  }
  return {};
}

}  // namespace

const ExpertWeightView* ExpertStore::find(int64_t layer, int64_t expert) const {
  const ExpertPtr weights = share(layer, expert);
  return weights ? &weights->view : nullptr;
}

ExpertPtr ExpertStore::share(int64_t layer, int64_t expert) const {
  if (layer < 0 || layer >= static_cast<int64_t>(expert_le_.size())) return nullptr;
  const std::vector<ExpertPtr>& expert_e = expert_le_[static_cast<size_t>(layer)];
  if (expert < 0 || expert >= static_cast<int64_t>(expert_e.size())) return nullptr;
  return expert_e[static_cast<size_t>(expert)];
}

Result<std::unique_ptr<ExpertStore>> ExpertStore::load(
    const std::filesystem::path& dir, const ModelSpec& spec, LoadMode mode,
    const std::vector<std::vector<int32_t>>& experts_of_layer, LoadProgress& progress, DeviceMemory& device) {
  GH_TRY(check_request(spec, experts_of_layer));
  GH_ASSIGN(const std::unique_ptr<TensorSource> source, open_tensor_source(dir, spec, mode));
  std::unique_ptr<ExpertStore> store(new ExpertStore());
  store->expert_le_.resize(experts_of_layer.size());

  LoadPlan plan(*source, device);
  std::vector<std::shared_ptr<ExpertWeights>> loaded;  // in the order of the plan's blocks
  for (size_t layer = 0; layer < experts_of_layer.size(); ++layer) {
    if (!spec.is_moe_layer[layer]) continue;
    store->expert_le_[layer].resize(static_cast<size_t>(spec.moe.num_experts));
    for (const int32_t expert : experts_of_layer[layer]) {
      loaded.push_back(std::make_shared<ExpertWeights>());
      plan.begin_block();
      GH_TRY(plan_expert(plan, spec, static_cast<int64_t>(layer), expert, &loaded.back()->view));
      store->expert_le_[layer][static_cast<size_t>(expert)] = loaded.back();
    }
  }
  store->bytes_ = plan.bytes();
  store->num_experts_ = static_cast<int64_t>(loaded.size());
  GH_ASSIGN(std::vector<Arena> blocks, plan.run_blocks(progress));
  for (size_t i = 0; i < loaded.size(); ++i) loaded[i]->memory = std::move(blocks[i]);
  return store;
}

}  // namespace guildhall
