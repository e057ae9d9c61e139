#include "router/dispatch_round.h"

#include <algorithm>

namespace guildhall {

void DispatchRound::route(View2<const int32_t> expert_of_tk, View2<const float> weight_of_tk,
                          const LayerReplicas& replicas, ReplicaChooser& chooser) {
  expert_tk = expert_of_tk;
  weight_tk = weight_of_tk;
  for (Share& s : share_w) {
    s.row_token.clear(), s.pair_slot.clear(), s.pairs.clear();
    s.awaited = s.on_device = false;
  }
  for (int64_t t = 0; t < expert_tk.rows; ++t) {
    for (int64_t k = 0; k < expert_tk.cols; ++k) {
      const int32_t expert = expert_tk(t, k);
      int32_t worker = replicas.worker_e[static_cast<size_t>(expert)];
      if (worker < 0) worker = chooser.choose(t, expert);
      Share& s = share(worker);
      if (s.row_token.empty() || s.row_token.back() != t) s.row_token.push_back(static_cast<int32_t>(t));
      s.pair_slot.push_back(static_cast<int32_t>(t * expert_tk.cols + k));
      s.pairs.push_back({.row = static_cast<uint32_t>(s.row_token.size() - 1),
                         .expert = static_cast<uint16_t>(expert),
                         .gate_rank = static_cast<uint16_t>(k),
                         .weight = weight_tk(t, k)});
    }
  }
  for (Share& s : share_w)
    s.num_answers = static_cast<int64_t>(combine == Combine::exact ? s.pairs.size() : s.row_token.size());
}

void DispatchRound::list_answers(std::span<EncodedRow> row_tk) const {
  const auto num_k = static_cast<size_t>(expert_tk.cols);
  if (combine == Combine::reduced) std::ranges::fill(row_tk, EncodedRow{});
  for (const Share& s : share_w) {
    for (size_t i = 0; i < static_cast<size_t>(s.num_answers); ++i) {
      const EncodedRow answer{s.rows + i * s.row_bytes, s.codec, s.on_device};
      if (combine == Combine::exact) {
        row_tk[static_cast<size_t>(s.pair_slot[i])] = answer;
      } else {
        const auto row_k = row_tk.subspan(static_cast<size_t>(s.row_token[i]) * num_k, num_k);
        std::ranges::find(row_k, nullptr, &EncodedRow::row)[0] = answer;  // a token has at most K workers
      }
    }
  }
}

void DispatchRound::close() {
  open = false;
  for (Share& s : share_w) {
    s.awaited = false;
    s.held = {};
  }
}

}  // namespace guildhall
