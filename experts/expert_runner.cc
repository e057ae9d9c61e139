#include "experts/expert_runner.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/convert.h"
#include "kernels/expert_ffn.h"
#include "kernels/permute.h"

namespace guildhall {

ExpertRunner::ExpertRunner(const ModelSpec& spec, Team& team)
    : spec_(spec), team_(team), offset_e_(static_cast<size_t>(spec.moe.num_experts + 1)) {}

void ExpertRunner::set_store(std::shared_ptr<const ExpertStore> store) {
  store_ = std::move(store);
  experts_le_.assign(static_cast<size_t>(spec_.num_layers), {});
  for (int64_t layer = 0; layer < spec_.num_layers; ++layer) {
    if (!spec_.is_moe_layer[static_cast<size_t>(layer)]) continue;
    auto& experts_e = experts_le_[static_cast<size_t>(layer)];
    for (int64_t e = 0; e < spec_.moe.num_experts; ++e) {
      const ExpertWeightView* held = store_->find(layer, e);
      experts_e.push_back(held != nullptr ? *held : ExpertWeightView{});
    }
  }
}

Result<void> ExpertRunner::check(const DispatchView& dispatch) const {
  const FrameHeader& header = dispatch.header;
  if (header.layer >= experts_le_.size() || experts_le_[header.layer].empty())
    return Status{Code::not_found, fmt::format("layer {} has no experts here", header.layer)};
  if (header.hidden != spec_.hidden)
    return Status{Code::invalid_argument, fmt::format("rows of {} elements; the model's hidden size is {}",
                                                      header.hidden, spec_.hidden)};
  const auto& experts_e = experts_le_[header.layer];
  for (const DispatchPair& pair : dispatch.pairs)
    if (pair.expert >= experts_e.size() || experts_e[pair.expert].gate_fh.empty())
      return Status{Code::not_found, fmt::format("layer {} expert {} is not held here (placement version {})",
                                                 header.layer, pair.expert, header.placement_version)};
  return {};
}

void ExpertRunner::run(const DispatchView& dispatch, std::span<std::byte> rows_out) {
  const auto num_pairs = static_cast<int64_t>(dispatch.pairs.size());
  expert_p_.clear(), row_p_.clear();
  for (const DispatchPair& pair : dispatch.pairs) {
    expert_p_.push_back(pair.expert);
    row_p_.push_back(static_cast<int32_t>(pair.row));
  }
  position_p_.resize(dispatch.pairs.size());
  group_by_expert_cpu(expert_p_, offset_e_, position_p_);

  const View2<float> x_th = x_.view(dispatch.header.num_rows, spec_.hidden);
  decode_rows(dispatch, x_th);
  const View2<float> grouped_ph = grouped_.view(num_pairs, spec_.hidden);
  permute_cpu(x_th, row_p_, position_p_, grouped_ph);
  const View2<float> result_ph = result_.view(num_pairs, spec_.hidden);
  expert_ffn_cpu(team_, grouped_ph, offset_e_, experts_le_[dispatch.header.layer],
                 hidden_.view(num_pairs, spec_.moe.expert_width), result_ph);
  encode_rows(dispatch, result_ph, rows_out);
}

void ExpertRunner::decode_rows(const DispatchView& dispatch, View2<float> x_th) const {
  if (static_cast<Codec>(dispatch.header.codec) == Codec::bf16)
    from_bf16_cpu(rows_as<bf16>(dispatch), x_th.data);
  else
    std::ranges::copy(rows_as<float>(dispatch), x_th.data);
}

void ExpertRunner::encode_rows(const DispatchView& dispatch, View2<const float> grouped_ph,
                               std::span<std::byte> rows_out) {
  const View2<float> ordered_ph =
      static_cast<Codec>(dispatch.header.codec) == Codec::f32
          ? View2<float>(reinterpret_cast<float*>(rows_out.data()), grouped_ph.rows, grouped_ph.cols)
          : ordered_.view(grouped_ph.rows, grouped_ph.cols);
  unpermute_cpu(grouped_ph, position_p_, ordered_ph);
  if (static_cast<Codec>(dispatch.header.codec) == Codec::bf16)
    to_bf16_cpu({ordered_ph.data, static_cast<size_t>(ordered_ph.rows * ordered_ph.cols)},
                reinterpret_cast<bf16*>(rows_out.data()));
}

}  // namespace guildhall
