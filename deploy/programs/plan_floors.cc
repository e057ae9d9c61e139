#include "deploy/programs/plan_floors.h"

#include <algorithm>
#include <cmath>

namespace guildhall {

double expected_experts(const GateShape& gate, int64_t num_tokens) {
  if (gate.num_experts == 0) return 0;
  const auto experts = static_cast<double>(gate.num_experts);
  const double missed = 1 - static_cast<double>(gate.top_k) / experts;
  return experts * (1 - std::pow(missed, static_cast<double>(num_tokens)));
}

double expected_workers(const GateShape& gate, std::span<const int64_t> experts_w) {
  double workers = 0;
  for (const int64_t held : experts_w) {
    double all_elsewhere = 1;
    for (int64_t i = 0; i < gate.top_k; ++i)
      all_elsewhere *= static_cast<double>(std::max<int64_t>(0, gate.num_experts - held - i)) /
                       static_cast<double>(gate.num_experts - i);
    workers += 1 - all_elsewhere;
  }
  return workers;
}

WireBytes wire_bytes(const GateShape& gate, RowCodecs codecs, Combine combine, int64_t hidden,
                     double num_workers) {
  const auto row = [&](Codec codec) {
    return static_cast<double>(row_bytes(codec, static_cast<uint64_t>(hidden)));
  };
  const auto choices = static_cast<double>(gate.top_k);
  const double answers = combine == Combine::exact ? choices : num_workers;
  return {.out = num_workers * row(codecs.dispatch) + choices * sizeof(DispatchPair),
          .back = answers * row(codecs.combine)};
}

}  // namespace guildhall
