// expert_store.cc: the routed experts that one process holds.
#include <fmt/format.h>

#include <algorithm>

#include "model/load_plan.h"
#include "model/weights.h"

namespace guildhall {
namespace {

Result<void> plan_expert(LoadPlan& plan, const ModelSpec& spec, size_t layer, int32_t expert,
                         ExpertWeightView* out) {
  const std::string at = fmt::format("model.layers.{}.mlp.experts.{}.", layer, expert);
  const int64_t width = spec.moe.expert_width, hidden = spec.hidden;
  const MatrixRequest requests[] = {
      {&out->gate_fh, {at + "gate_proj.weight"}, width, hidden},
      {&out->up_fh, {at + "up_proj.weight"}, width, hidden},
      {&out->down_hf, {at + "down_proj.weight"}, hidden, width},
  };
  return plan.add_matrices(requests);
}

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

struct ExpertStore::Storage {
  Arena arena;
  std::vector<ExpertWeightView> experts;  // those held, by layer, then by expert
  std::vector<std::vector<int32_t>>
      index_le;  // [layer][expert] -> into experts; -1: not held; empty: no experts
};

ExpertStore::ExpertStore() : storage_(std::make_unique<Storage>()) {}
ExpertStore::~ExpertStore() = default;
int64_t ExpertStore::bytes() const { return storage_->arena.bytes(); }
int64_t ExpertStore::num_experts() const { return static_cast<int64_t>(storage_->experts.size()); }

const ExpertWeightView* ExpertStore::find(int64_t layer, int64_t expert) const {
  if (layer < 0 || layer >= static_cast<int64_t>(storage_->index_le.size())) return nullptr;
  const std::vector<int32_t>& index_e = storage_->index_le[static_cast<size_t>(layer)];
  if (expert < 0 || expert >= static_cast<int64_t>(index_e.size())) return nullptr;
  const int32_t index = index_e[static_cast<size_t>(expert)];
  return index < 0 ? nullptr : &storage_->experts[static_cast<size_t>(index)];
}

Result<std::unique_ptr<ExpertStore>> ExpertStore::load(
    const std::filesystem::path& dir, const ModelSpec& spec, LoadMode mode,
    const std::vector<std::vector<int32_t>>& experts_of_layer, LoadProgress& progress, DeviceMemory& device) {
  GH_TRY(check_request(spec, experts_of_layer));
  GH_ASSIGN(const std::unique_ptr<TensorSource> source, open_tensor_source(dir, spec, mode));
  std::unique_ptr<ExpertStore> store(new ExpertStore());
  Storage& storage = *store->storage_;
  storage.index_le.resize(experts_of_layer.size());
  size_t count = 0;
  for (const std::vector<int32_t>& experts : experts_of_layer) count += experts.size();
  storage.experts.resize(count);

  LoadPlan plan(*source, device);
  int32_t next = 0;
  for (size_t layer = 0; layer < experts_of_layer.size(); ++layer) {
    if (!spec.is_moe_layer[layer]) continue;
    storage.index_le[layer].assign(static_cast<size_t>(spec.moe.num_experts), -1);
    for (const int32_t expert : experts_of_layer[layer]) {
      GH_TRY(plan_expert(plan, spec, layer, expert, &storage.experts[static_cast<size_t>(next)]));
      storage.index_le[layer][static_cast<size_t>(expert)] = next++;
    }
  }
  GH_ASSIGN(storage.arena, plan.run(progress));
  return store;
}

int64_t expert_bytes(const ModelSpec& spec) {
  const auto matrix_bytes = [&](int64_t rows, int64_t cols) {
    return spec.fp8_weights ? fp8_matrix_bytes(rows, cols)
                            : align_weight(rows * cols * dtype_bytes(spec.weight_dtype));
  };
  const int64_t width = spec.moe.expert_width, hidden = spec.hidden;
  return 2 * matrix_bytes(width, hidden) + matrix_bytes(hidden, width);
}

}  // namespace guildhall
