// dispatcher.h: sends a layer's rows to the workers that hold their experts and adds what comes back.
// dispatch() packs one region per worker, each row once per worker with its (expert, weight) list; combine()
// waits for every answer and sums a token's rows. Exact: one per choice, in gate order, so that the bits do
// not depend on where experts live. Reduced: one per worker, in the workers' order, so that they depend on
// the placement and the choice of replicas. A step's micro-batches have one round each under way: they are
// dispatched and combined in any order. Workers come, go and change what they hold at any time: the next
// dispatch is routed by what is then. Owner: the engine thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/view.h"
#include "proto/exchange.h"
#include "router/dispatch_round.h"
#include "router/live_placement.h"
#include "router/step_routing.h"
#include "transport/exchange.h"

namespace guildhall {

struct DispatcherOptions {
  ExpertGrid experts;
  int64_t num_workers = 0;
  ReplicaRules replicas;
  std::vector<RowCodecs> codecs_w;  // [W]; empty: f32 both ways for all
  Combine combine = Combine::exact;
  int64_t hidden = 0, top_k = 0;
  int64_t max_tokens = 0;               // of a step, all its micro-batches together
  std::chrono::nanoseconds deadline{};  // for one layer's answers
  Team* team = nullptr;                 // packs and sums; borrowed, required
  // Runs workers that live in this process; returns whether there was work. Empty: there are none.
  std::function<bool()> pump_local_workers;
  StepRouting* routing = nullptr;  // counts what is dispatched; borrowed. Null: nobody does
  // Called while answers are awaited; may attach and detach workers. Empty: nobody does.
  std::function<void()> while_waiting;
};

struct DispatchCounters {
  // experts_touched: as StepRouting counts them.
  int64_t dispatches = 0, pairs = 0, experts_touched = 0, bytes_sent = 0, bytes_received = 0,
          stale_frames = 0;
};

struct LostWorker {
  int32_t worker;
  uint64_t generation;  // of the link that ended
  Status why;
};

// Which rows a dispatch is about.
struct DispatchKey {
  int64_t layer = 0;
  int micro_batch = 0;      // < kMaxMicroBatches; its round before this must be combined
  int64_t first_token = 0;  // of the step, that is the first of its rows
  RowOwners owners;         // read during dispatch() only
};

// Puts rows of a step that are on a device where frames' tails are.
class TailWriter {
 public:
  virtual ~TailWriter() = default;
  // Enqueues tail[i] = row row_i[i].
  virtual void write(std::span<const int32_t> row_i, std::byte* tail) = 0;
  // Returns when all are written.
  virtual void finish() = 0;
};

// Rows to be sent: fp32, or in the codec of all workers already.
struct EncodedRows {
  const std::byte* data = nullptr;
  int64_t num_rows = 0;
  Codec codec = Codec::f32;
  size_t stride_bytes = 0;
  TailWriter* tails = nullptr;  // the rows are on a device, and there only

  EncodedRows() = default;
  EncodedRows(const std::byte* data, int64_t num_rows, Codec codec, size_t stride_bytes)
      : data(data), num_rows(num_rows), codec(codec), stride_bytes(stride_bytes) {}
  EncodedRows(View2<const float> x_th)
      : EncodedRows(reinterpret_cast<const std::byte*>(x_th.data), x_th.rows, Codec::f32,
                    static_cast<size_t>(x_th.stride) * sizeof(float)) {}
  const std::byte* row(int64_t r) const { return data + static_cast<size_t>(r) * stride_bytes; }
};

// What each token sums, in order (DispatchRound::list_answers), as it came off the wire.
struct Answers {
  View2<const EncodedRow> row_tk;
  bool weighted = false;   // by the workers
  bool on_device = false;  // some of them
};

class Dispatcher final : public ExchangeHandler {
 public:
  // `exchange` is borrowed.
  Dispatcher(DispatcherOptions options, Exchange& exchange);

  // What each worker may be asked for is in placement(), which tells whether all experts have a worker: they
  // must at dispatch().
  void attach(int32_t worker, std::string name, PeerId peer, uint64_t generation, Holdings holdings);
  void set_holdings(int32_t worker, Holdings holdings);  // of a worker that is attached
  bool is_attached(int32_t worker, uint64_t generation) const;
  void detach(int32_t worker);  // while its answer is awaited: combine() ends with peer_lost
  LivePlacement& placement() { return placement_; }
  // Of all workers; a direction in which they differ, f32.
  RowCodecs common_codecs() const;
  // Whether frames may have tails at all, and whether so many bytes of rows should go to the workers as such.
  bool has_tails() const { return exchange_.has_tails(); }
  bool sends_tails(size_t bytes) const;

  // Posts the rows; every attached worker gets a frame, those without rows an empty one. The views expert_tk
  // and weight_tk must live until combine() returns. Errors: peer_lost naming the worker.
  // After an error, here or from combine(), the step is void for all its micro-batches: the next dispatch
  // starts afresh.
  Result<void> dispatch(const DispatchKey& key, const EncodedRows& rows, View2<const int32_t> expert_tk,
                        View2<const float> weight_tk);

  // y_th += the experts' weighted rows of what was dispatched for this micro-batch. Errors: peer_lost or
  // deadline_exceeded naming the worker, or what a worker answered instead, be it to another micro-batch.
  Result<void> combine(int micro_batch, View2<float> y_th);
  // combine() for who sums elsewhere: its answers, until close() ends the round or another's are asked for.
  Result<Answers> answers(int micro_batch);
  void close(int micro_batch) { round_m_[static_cast<size_t>(micro_batch)].close(); }

  // Whether a worker is attached that brings experts into its memory as they are needed.
  bool has_offloading_workers() const { return num_offloading_ > 0; }
  // Tells such workers which of their experts of `layer` the next dispatches will probably ask for: what its
  // gate chose for these tokens beforehand. A hint that cannot be sent is left out.
  void hint(int64_t layer, View2<const int32_t> expert_tk);

  // Lets frames under way move on, and takes those that have come. Call between pieces of computing while
  // rounds are open. What goes wrong shows in the next dispatch() or combine().
  void progress() { exchange_.poll(*this); }
  // Delivers what has arrived outside of a step (late frames, lost peers). Call while idle.
  void poll();
  // The workers reported lost since the last call.
  std::vector<LostWorker> take_lost();

  const DispatchCounters& counters() const { return counters_; }

  void on_frame(PeerId peer, std::span<const std::byte> bytes) override;
  void on_peer_lost(PeerId peer, const Status& why) override;

 private:
  struct Worker {
    std::string name;
    std::optional<PeerId> peer;
    uint64_t generation = 0;
  };

  void count_offloading();
  void list_by_rows(View2<const int32_t> expert_tk);
  Result<void> check_covered();
  Result<void> send(DispatchRound& round, const EncodedRows& rows);
  Result<size_t> pack(const DispatchRound& round, int32_t worker, const EncodedRows& rows);
  Result<void> wait_for_answers(DispatchRound& round);
  void give_up_late_workers(const DispatchRound& round);
  void take_answer(DispatchRound& round, int32_t worker, const FrameHeader& header,
                   std::span<const std::byte> bytes);
  Result<void> check_answer(const DispatchRound& round, int32_t worker, const FrameHeader& answer) const;
  DispatchRound* awaited_round(int32_t worker, const FrameHeader& header);
  bool is_awaited(int32_t worker);
  std::optional<int32_t> find(PeerId peer) const;
  void fail(Status status);
  Status abandon_step(Status why);
  void drop_link(int32_t worker, const Status& why);
  void lose(int32_t worker, const Status& named);

  DispatcherOptions options_;
  Exchange& exchange_;
  LivePlacement placement_;
  ReplicaChooser chooser_;
  std::vector<Worker> workers_;
  std::vector<Exchange::Outgoing> outgoing_;
  std::vector<LostWorker> lost_;

  std::array<DispatchRound, kMaxMicroBatches> round_m_;
  uint64_t step_id_ = 0;            // of the last round
  std::optional<Status> failure_;   // of the step under way
  std::vector<EncodedRow> row_tk_;  // [T, K] a round's answers; scratch of combine()
  std::vector<float> one_tk_;       // [T, K] the weights of rows that are weighted already
  int64_t num_offloading_ = 0;      // attached workers
  // Of hint(): how many tokens chose each expert [E]; those any did, by that; a worker's of them.
  std::vector<int32_t> num_tokens_e_;
  std::vector<uint16_t> hinted_, hinted_there_;
  DispatchCounters counters_;
};

}  // namespace guildhall
