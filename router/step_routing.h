// step_routing.h: what the gate chose in the step under way, and what its exchange took: counted as it
// happens, and given to the router's recorder when the step has succeeded. A step that fails is computed
// again, so what it counted is forgotten. A (token, expert) pair costs a few instructions and touches one
// line of memory. Owner: the engine thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/view.h"
#include "router/balance/loads.h"
#include "router/balance/trace_file.h"
#include "router/dispatch_round.h"
#include "router/scheduler.h"
#include "router/worker_traffic.h"

namespace guildhall {

class RoutingRecorder;

class StepRouting {
 public:
  // `recorder` is borrowed and gets the steps.
  explicit StepRouting(RoutingRecorder& recorder);

  // A step of these chunks begins; the one before is forgotten unless it was committed. A token is of a
  // decode when it is the newest of a text that is being generated: all else, the recomputing of a text too,
  // is prefill.
  void begin(std::span<const ScheduledChunk> chunks);

  // A micro-batch's choices of a layer, that begins with the step's token `first_token`. How many experts it
  // touches.
  int64_t count(int64_t layer, int64_t first_token, View2<const int32_t> expert_tk);
  // A frame is packed for a worker, and is answered.
  void sent(const DispatchRound& round, int32_t worker, size_t bytes);
  void answered(const DispatchRound& round, int32_t worker, size_t bytes);

  // The step has succeeded.
  void commit();

  // Of the step, for the recorder. Adds it to the model's layers, and returns the sum over all experts.
  ExpertLoad add_to(Loads& loads) const;
  std::span<const WorkerTraffic> traffic_lw() const { return traffic_lw_; }
  TraceStep trace_step() const;  // without id and time

 private:
  enum Phase : uint8_t { kPrefill, kDecode, kNumPhases };
  struct Cell {  // an expert's, in the step
    std::array<uint32_t, kNumPhases> tokens{}, active{}, last_round{};
    uint32_t active_rounds = 0;
  };
  struct Layer {
    std::vector<Cell> cell_e;      // empty: a layer without experts
    std::vector<int32_t> touched;  // experts of the step, in the order they came
  };

  void forget();

  RoutingRecorder& recorder_;
  const size_t num_workers_;
  std::vector<Layer> layers_;
  std::vector<uint8_t> phase_t_;  // of the step's tokens
  uint32_t round_ = 0;            // of the step: counts its dispatches
  bool has_counts_ = false;       // there is something to forget
  std::vector<WorkerTraffic> traffic_lw_;
  std::array<std::vector<int64_t>, kMaxMicroBatches> sent_ns_mw_;
};

}  // namespace guildhall
