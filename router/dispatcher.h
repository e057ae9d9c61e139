// dispatcher.h: sends a layer's rows to the workers that hold their experts and adds what comes back.
// dispatch() packs one region per worker, each row once per worker with its (expert, weight) list; combine()
// waits for every answer and sums a token's rows in gate order, so that the bits do not depend on where
// experts live. Owner: the engine thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/view.h"
#include "proto/exchange.h"
#include "router/placement.h"
#include "transport/exchange.h"

namespace guildhall {

struct DispatcherOptions {
  Codec codec = Codec::bf16;  // of rows in both directions
  int64_t hidden = 0, top_k = 0, max_tokens = 0;
  std::chrono::nanoseconds deadline{};  // for one layer's answers
  // Runs workers that live in this process; returns whether there was work. Empty: there are none.
  std::function<bool()> pump_local_workers;
  // Called while answers are awaited; may attach and detach workers. Empty: nobody does.
  std::function<void()> while_waiting;
};

struct DispatchCounters {
  int64_t dispatches = 0, pairs = 0, experts_touched = 0, bytes_sent = 0, bytes_received = 0,
          stale_frames = 0;
};

class Dispatcher final : public ExchangeHandler {
 public:
  // `exchange` is borrowed.
  Dispatcher(DispatcherOptions options, Exchange& exchange);

  // Every worker of the placement must be attached before dispatch().
  void set_placement(Placement placement);
  void attach(int32_t worker, std::string name, PeerId peer, uint64_t generation);
  void detach(int32_t worker);  // while its answer is awaited: combine() ends with peer_lost
  bool all_attached() const;

  // Posts x_th's rows. The views expert_tk and weight_tk must live until combine() returns.
  // Errors: peer_lost naming the worker. After an error the step is over: the next dispatch starts afresh.
  Result<void> dispatch(int64_t layer, View2<const float> x_th, View2<const int32_t> expert_tk,
                        View2<const float> weight_tk);

  // y_th += the experts' weighted rows. Errors: peer_lost or deadline_exceeded naming the worker, or what a
  // worker answered instead.
  Result<void> combine(View2<float> y_th);

  // Delivers what has arrived outside of a step (late frames, lost peers). Call while idle.
  void poll();
  // The workers reported lost since the last call.
  std::vector<std::pair<int32_t, Status>> take_lost();

  const DispatchCounters& counters() const { return counters_; }

  void on_frame(PeerId peer, std::span<const std::byte> bytes) override;
  void on_peer_lost(PeerId peer, const Status& why) override;

 private:
  struct Worker {
    std::string name;
    std::optional<PeerId> peer;
    uint64_t generation = 0;
    // This step's: the rows it gets and the (token, k) of each pair, in the order they are sent.
    std::vector<int32_t> row_token;
    std::vector<int32_t> pair_slot;  // t * K + k
    std::vector<DispatchPair> pairs;
    int64_t first_pair = 0;  // where its answers stand in rows_ph
    bool awaited = false;
  };

  void route(View2<const int32_t> expert_tk, View2<const float> weight_tk,
             const std::vector<int32_t>& worker_e);
  Result<size_t> pack(Worker& worker, int64_t layer, View2<const float> x_th);
  Result<void> wait_for_answers();
  void give_up_late_workers();
  Worker* find(PeerId peer);
  void fail(Status status);
  void drop_link(Worker& worker, const Status& why);

  DispatcherOptions options_;
  Exchange& exchange_;
  Placement placement_;
  std::vector<Worker> workers_;
  std::vector<Exchange::Outgoing> outgoing_;
  std::vector<std::pair<int32_t, Status>> lost_;

  // The dispatch under way.
  uint64_t step_id_ = 0;
  int64_t layer_ = 0;
  int num_awaited_ = 0;
  std::optional<Status> failure_;
  View2<const int32_t> expert_tk_;
  View2<const float> weight_tk_;
  std::vector<float> rows_ph_;      // [T*K, H] answers
  std::vector<int32_t> index_tk_;   // [T, K] into rows_ph_
  std::vector<uint8_t> touched_e_;  // [E] of the layer: got a row this step
  DispatchCounters counters_;
};

}  // namespace guildhall
