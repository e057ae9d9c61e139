// nccl_star.h: one generation of a hub's communicators, as one end of it sees them: a hub in the middle, rank
// 0, and its members around it. Two communicators, so that neither direction waits for the other: in `out`
// only the hub sends, in `back` only the members do. As every operation has the hub on one side, and the
// hub's order is the same for all, no two ends can wait for each other.
//
//   joining -> joined -> live -> over      over: revoked; good for its successor's ncclCommShrink, and its
//   end
//
// One thread.
#pragma once

#include <memory>
#include <vector>

#include "transport/exchange.h"
#include "transport/nccl_pipe.h"
#include "transport/nccl_signal.h"

namespace guildhall {

class NcclStar {
 public:
  enum class State { joining, joined, live, over };

  // Joins as `offer` says; its rank 0 is the hub. `parent`: the star that is shrunk, where the offer names
  // one.
  static Result<std::unique_ptr<NcclStar>> join(uint32_t generation, const CommOffer& offer,
                                                NcclMemory& device_memory, std::chrono::nanoseconds deadline,
                                                NcclGraphUse& graphs, std::unique_ptr<NcclStar> parent);

  uint32_t generation() const { return generation_; }
  State state() const { return state_; }
  bool is_hub() const { return rank_ == 0; }
  int num_ranks() const { return num_ranks_; }
  // All have joined: frames may flow.
  void set_live() { state_ = State::live; }
  void revoke();

  void send(std::vector<NcclPipe::Transfer> group) { sends().start(std::move(group)); }
  void receive(std::vector<NcclPipe::Transfer> group) { receives().start(std::move(group)); }

  // Moves joining and transfers on; appends what has come through. An error is the star's end: revoke it.
  Result<void> progress(std::vector<NcclPipe::Transfer>& sent, std::vector<NcclPipe::Transfer>& received);
  bool busy() const;  // something is under way that only progress() sees the end of

 private:
  NcclStar(uint32_t generation, NcclMemory& device_memory, std::chrono::nanoseconds deadline,
           NcclGraphUse& graphs)
      : generation_(generation), device_memory_(device_memory), deadline_(deadline), graphs_(graphs) {}
  NcclPipe& sends() { return is_hub() ? *out_ : *back_; }
  NcclPipe& receives() { return is_hub() ? *back_ : *out_; }
  Result<void> shrink_parent();

  const uint32_t generation_;
  NcclMemory& device_memory_;
  const std::chrono::nanoseconds deadline_;
  NcclGraphUse& graphs_;
  State state_ = State::joining;
  int rank_ = 0, num_ranks_ = 0;
  std::vector<int> excluded_;             // of the parent's ranks
  std::unique_ptr<NcclStar> parent_;      // until joined; its communicators become ours
  std::unique_ptr<NcclPipe> out_, back_;  // none while the parent's are not yet quiet
};

}  // namespace guildhall
