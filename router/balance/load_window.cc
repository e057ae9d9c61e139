#include "router/balance/load_window.h"

#include <algorithm>
#include <span>

namespace guildhall {
namespace {

constexpr size_t kParts = 8;

void add_lists(std::span<const ExpertTokens> prefill, std::span<const ExpertTokens> decode,
               std::vector<ExpertLoad>& load_e) {
  for (const ExpertTokens& item : decode) {
    ExpertLoad& load = load_e[static_cast<size_t>(item.expert)];
    load.decode_tokens += item.tokens;
    ++load.decode_active_steps;
    ++load.active_steps;
  }
  auto other = decode.begin();  // both ascend
  for (const ExpertTokens& item : prefill) {
    ExpertLoad& load = load_e[static_cast<size_t>(item.expert)];
    load.prefill_tokens += item.tokens;
    while (other != decode.end() && other->expert < item.expert) ++other;
    if (other == decode.end() || other->expert != item.expert) ++load.active_steps;
  }
}

}  // namespace

LoadWindow::LoadWindow(const TraceHeader& header, int64_t window_steps)
    : header_(header), steps_per_part_(std::max<int64_t>(1, window_steps / static_cast<int64_t>(kParts))) {
  parts_.push_back(empty());
}

Loads LoadWindow::empty() const {
  Loads loads;
  loads.load_le.resize(static_cast<size_t>(header_.num_layers));
  for (const int32_t layer : header_.moe_layers)
    loads.load_le[static_cast<size_t>(layer)].resize(static_cast<size_t>(header_.num_experts));
  return loads;
}

void LoadWindow::add(const TraceStep& step) {
  if (parts_.back().num_steps == steps_per_part_) parts_.push_back(empty());
  if (parts_.size() > kParts) parts_.pop_front();
  Loads& part = parts_.back();
  ++part.num_steps;
  for (size_t i = 0; i < header_.moe_layers.size(); ++i)
    add_lists(step.prefill_le[i], step.decode_le[i],
              part.load_le[static_cast<size_t>(header_.moe_layers[i])]);
}

Loads LoadWindow::loads() const {
  Loads sum = empty();
  for (const Loads& part : parts_) {
    sum.num_steps += part.num_steps;
    for (size_t layer = 0; layer < sum.load_le.size(); ++layer)
      for (size_t e = 0; e < sum.load_le[layer].size(); ++e) sum.load_le[layer][e] += part.load_le[layer][e];
  }
  return sum;
}

int64_t LoadWindow::num_steps() const {
  int64_t steps = 0;
  for (const Loads& part : parts_) steps += part.num_steps;
  return steps;
}

}  // namespace guildhall
