// dispatch_round.h: one micro-batch's dispatch of one layer: which rows and pairs each worker gets, and who
// has still to answer. A token's row goes to each worker once, with the list of its experts there. Reused
// from layer to layer. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/combine_encoded.h"
#include "kernels/view.h"
#include "proto/exchange.h"
#include "router/replica_chooser.h"
#include "transport/exchange.h"

namespace guildhall {

struct DispatchRound {
  struct Share {                     // one worker's
    std::vector<int32_t> row_token;  // the tokens whose rows it gets, ascending
    std::vector<int32_t> pair_slot;  // t * K + k of each pair, in the order they are sent
    std::vector<DispatchPair> pairs;
    int64_t num_answers = 0;  // rows due from it: one per pair, or one per row of a reduced combine
    bool awaited = false;
    // Its answer, in the frame that brought it.
    FrameHold held;
    Codec codec = Codec::f32;
    const std::byte* rows = nullptr;
    size_t row_bytes = 0;
    bool on_device = false;  // the rows
  };

  // Lists each worker's rows and pairs, in token and gate order. The views must live until the round is over.
  // Every expert has a replica; the chooser has begun with them.
  void route(View2<const int32_t> expert_tk, View2<const float> weight_tk, const LayerReplicas& replicas,
             ReplicaChooser& chooser);

  // The answers that each token sums, in order: row_tk [T,K], row-major. Exact: those of its choices, in gate
  // order. Reduced: those of its workers, in the workers' order, then none.
  void list_answers(std::span<EncodedRow> row_tk) const;

  // Awaits nobody and holds nothing any more.
  void close();

  int64_t num_pairs() const { return expert_tk.rows * expert_tk.cols; }
  Share& share(int32_t worker) { return share_w[static_cast<size_t>(worker)]; }

  bool open = false;  // dispatched, not combined yet
  uint64_t step_id = 0;
  int64_t layer = 0;
  int micro_batch = 0;
  Combine combine = Combine::exact;
  int num_awaited = 0;
  View2<const int32_t> expert_tk;
  View2<const float> weight_tk;
  std::vector<Share> share_w;
};

}  // namespace guildhall
