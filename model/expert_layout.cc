#include "model/expert_layout.h"

#include <fmt/format.h>

#include "base/check.h"
#include "model/load_plan.h"

namespace guildhall {
namespace {

int64_t matrix_bytes(DType dtype, int64_t rows, int64_t cols) {
  return dtype == DType::e4m3 ? fp8_matrix_bytes(rows, cols) : align_weight(rows * cols * dtype_bytes(dtype));
}

ExpertWeightView view_of(const ModelSpec& spec, DType dtype, const std::byte* at) {
  const auto next = [&](int64_t rows, int64_t cols) {
    WeightView matrix{.data = at, .dtype = dtype, .rows = rows, .cols = cols};
    if (dtype == DType::e4m3)
      matrix.scale_bb = reinterpret_cast<const float*>(at + align_weight(rows * cols * dtype_bytes(dtype)));
    at += matrix_bytes(dtype, rows, cols);
    return matrix;
  };
  const int64_t width = spec.moe.expert_width, hidden = spec.hidden;
  ExpertWeightView view;
  view.gate_fh = next(width, hidden);
  view.up_fh = next(width, hidden);
  view.down_hf = next(hidden, width);
  return view;
}

Result<ExpertPtr> upload_expert(const ModelSpec& spec, DType dtype, const Arena& bytes,
                                DeviceMemory& device) {
  auto expert = std::make_shared<ExpertWeights>();
  GH_ASSIGN(expert->memory, Arena::allocate(bytes.bytes(), device));
  GH_TRY(device.upload({bytes.data(), static_cast<size_t>(bytes.bytes())}, expert->memory.data()));
  expert->view = view_of(spec, dtype, expert->memory.data());
  return ExpertPtr(std::move(expert));
}

}  // namespace

int64_t expert_bytes(const ModelSpec& spec, DType dtype) {
  const int64_t width = spec.moe.expert_width, hidden = spec.hidden;
  return 2 * matrix_bytes(dtype, width, hidden) + matrix_bytes(dtype, hidden, width);
}

int64_t expert_bytes(const ModelSpec& spec) {
  return expert_bytes(spec, spec.fp8_weights ? DType::e4m3 : spec.weight_dtype);
}

Result<void> plan_expert(LoadPlan& plan, const ModelSpec& spec, int64_t layer, int64_t expert,
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

Result<ExpertPtr> adopt_expert(const ModelSpec& spec, DType dtype, Arena bytes, DeviceMemory& device) {
  GH_CHECK(bytes.bytes() == expert_bytes(spec, dtype));
  if (!device.is_host()) return upload_expert(spec, dtype, bytes, device);
  auto expert = std::make_shared<ExpertWeights>();
  expert->memory = std::move(bytes);
  expert->view = view_of(spec, dtype, expert->memory.data());
  return ExpertPtr(std::move(expert));
}

Result<ExpertPtr> copy_expert(const ModelSpec& spec, const ExpertWeights& host, DeviceMemory& device) {
  return upload_expert(spec, host.view.gate_fh.dtype, host.memory, device);
}

}  // namespace guildhall
