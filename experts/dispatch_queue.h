// dispatch_queue.h: the dispatches that routers wait for, and which are served next. A service round takes
// the oldest of every router that has one: so a router's dispatch waits for one round at most, whatever the
// others send, and what different routers sent for one layer can run as one. Owner: the serve thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/codec.h"
#include "transport/exchange.h"

namespace guildhall {

struct WaitingDispatch {
  PeerId router = 0;
  DispatchView view;
  FrameHold hold;  // of the view's bytes
};

class DispatchQueue {
 public:
  // A router has one dispatch per micro-batch under way, and may have given up a few steps before.
  static constexpr size_t kMaxPerRouter = 4 * kMaxMicroBatches;

  bool has_room(PeerId router) const;  // false: this router has as many as may wait
  void push(WaitingDispatch dispatch);
  void forget(PeerId router);
  bool empty() const { return waiting_.empty(); }

  // The next round, those of one layer side by side. Valid until end_round().
  std::span<const WaitingDispatch> take_round();
  void end_round() { round_.clear(); }

 private:
  std::vector<WaitingDispatch> waiting_;  // in the order of arrival
  std::vector<WaitingDispatch> round_;    // taken
};

}  // namespace guildhall
