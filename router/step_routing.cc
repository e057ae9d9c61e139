#include "router/step_routing.h"

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"
#include "router/routing_recorder.h"

namespace guildhall {

StepRouting::StepRouting(RoutingRecorder& recorder)
    : recorder_(recorder),
      num_workers_(static_cast<size_t>(recorder.num_workers())),
      layers_(static_cast<size_t>(recorder.shape().num_layers)),
      traffic_lw_(layers_.size() * num_workers_) {
  const auto num_experts = static_cast<size_t>(recorder.shape().num_experts);
  for (const int32_t layer : recorder.shape().moe_layers) {
    layers_[static_cast<size_t>(layer)].cell_e.resize(num_experts);
    layers_[static_cast<size_t>(layer)].touched.reserve(num_experts);
  }
  for (auto& sent_ns_w : sent_ns_mw_) sent_ns_w.resize(num_workers_);
}

void StepRouting::begin(std::span<const ScheduledChunk> chunks) {
  forget();
  for (const ScheduledChunk& chunk : chunks) {
    const Sequence& s = *chunk.sequence;
    const bool is_decode = s.num_pending() == 1 && s.num_generated() > 0;
    phase_t_.insert(phase_t_.end(), static_cast<size_t>(chunk.num_tokens), is_decode ? kDecode : kPrefill);
  }
}

void StepRouting::forget() {
  phase_t_.clear();
  if (!has_counts_) return;
  has_counts_ = false;
  round_ = 0;
  for (Layer& layer : layers_) {
    for (const int32_t expert : layer.touched) layer.cell_e[static_cast<size_t>(expert)] = {};
    layer.touched.clear();
  }
  std::ranges::fill(traffic_lw_, WorkerTraffic{});
}

int64_t StepRouting::count(int64_t layer_idx, int64_t first_token, View2<const int32_t> expert_tk) {
  GH_CHECK(first_token + expert_tk.rows <= static_cast<int64_t>(phase_t_.size()));
  Layer& layer = layers_[static_cast<size_t>(layer_idx)];
  const uint32_t round = ++round_;
  has_counts_ = true;
  int64_t num_touched = 0;
  for (int64_t t = 0; t < expert_tk.rows; ++t) {
    const size_t phase = phase_t_[static_cast<size_t>(first_token + t)];
    const int32_t* const expert_k = expert_tk.row(t);
    for (int64_t k = 0; k < expert_tk.cols; ++k) {
      Cell& cell = layer.cell_e[static_cast<size_t>(expert_k[k])];
      ++cell.tokens[phase];
      if (cell.last_round[phase] == round) continue;
      cell.last_round[phase] = round;
      ++cell.active[phase];
      if (cell.last_round[1 - phase] == round) continue;
      if (cell.active_rounds++ == 0) layer.touched.push_back(expert_k[k]);
      ++num_touched;
    }
  }
  return num_touched;
}

void StepRouting::sent(const DispatchRound& round, int32_t worker, size_t bytes) {
  const auto w = static_cast<size_t>(worker);
  WorkerTraffic& traffic = traffic_lw_[static_cast<size_t>(round.layer) * num_workers_ + w];
  has_counts_ = true;
  ++traffic.frames;
  traffic.pairs += static_cast<int64_t>(round.share_w[w].pairs.size());
  traffic.bytes_sent += static_cast<int64_t>(bytes);
  sent_ns_mw_[static_cast<size_t>(round.micro_batch)][w] = now_ns();
}

void StepRouting::answered(const DispatchRound& round, int32_t worker, size_t bytes) {
  const auto w = static_cast<size_t>(worker);
  WorkerTraffic& traffic = traffic_lw_[static_cast<size_t>(round.layer) * num_workers_ + w];
  traffic.bytes_received += static_cast<int64_t>(bytes);
  traffic.answer_ns += now_ns() - sent_ns_mw_[static_cast<size_t>(round.micro_batch)][w];
}

void StepRouting::commit() {
  recorder_.add(*this);
  forget();
}

ExpertLoad StepRouting::add_to(Loads& loads) const {
  ExpertLoad sum;
  ++loads.num_steps;
  for (size_t l = 0; l < layers_.size(); ++l)
    for (const int32_t expert : layers_[l].touched) {
      const Cell& cell = layers_[l].cell_e[static_cast<size_t>(expert)];
      const ExpertLoad load{.prefill_tokens = cell.tokens[kPrefill],
                            .decode_tokens = cell.tokens[kDecode],
                            .active_steps = cell.active_rounds,
                            .decode_active_steps = cell.active[kDecode]};
      loads.load_le[l][static_cast<size_t>(expert)] += load;
      sum += load;
    }
  return sum;
}

TraceStep StepRouting::trace_step() const {
  TraceStep step;
  step.decode_tokens = std::count(phase_t_.begin(), phase_t_.end(), kDecode);
  step.prefill_tokens = static_cast<int64_t>(phase_t_.size()) - step.decode_tokens;
  for (const Layer& layer : layers_) {
    if (layer.cell_e.empty()) continue;
    auto& prefill = step.prefill_le.emplace_back();
    auto& decode = step.decode_le.emplace_back();
    for (size_t e = 0; e < layer.cell_e.size(); ++e) {
      const auto& tokens = layer.cell_e[e].tokens;
      const auto expert = static_cast<int32_t>(e);
      if (tokens[kPrefill] > 0) prefill.push_back({expert, static_cast<int32_t>(tokens[kPrefill])});
      if (tokens[kDecode] > 0) decode.push_back({expert, static_cast<int32_t>(tokens[kDecode])});
    }
  }
  return step;
}

}  // namespace guildhall
