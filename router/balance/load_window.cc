#include "router/balance/load_window.h"

#include <span>

namespace guildhall {
namespace {

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

Loads empty_loads(const TraceHeader& header) {
  Loads loads;
  loads.load_le.resize(static_cast<size_t>(header.num_layers));
  for (const int32_t layer : header.moe_layers)
    loads.load_le[static_cast<size_t>(layer)].resize(static_cast<size_t>(header.num_experts));
  return loads;
}

void LoadWindow::add(const TraceStep& step) {
  Loads& part = window_.open_step();
  ++part.num_steps;
  for (size_t i = 0; i < header_.moe_layers.size(); ++i)
    add_lists(step.prefill_le[i], step.decode_le[i],
              part.load_le[static_cast<size_t>(header_.moe_layers[i])]);
}

}  // namespace guildhall
