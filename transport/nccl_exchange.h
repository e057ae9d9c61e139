// nccl_exchange.h: the data plane over NCCL. Large frames cross from device memory to device memory; beside
// them another exchange, UCX, carries the signals: who sends how much to whom, so that both sides of every
// NCCL operation know of it before it begins; small frames whole; and the offers that make communicators.
//
// Each hub (a router) has communicators of its own with its members (its workers), see nccl_star.h; there are
// none at first, and a new generation whenever members come, go or fail. While there is none, frames go with
// the signals: nothing ever waits for NCCL. What was under way in a communicator that is given up is sent
// again that way; a sender keeps every frame until it hears that it has come. Sequence numbers keep each
// peer's order and make doubles harmless.
//
// Thread: one owner, but for wake() and local_address(). Files: nccl_exchange.cc (peers, poll, wait),
// nccl_frames.cc (a frame's way out and in), nccl_hub.cc (generations).
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "transport/exchange.h"
#include "transport/held_frames.h"
#include "transport/nccl_memory.h"
#include "transport/nccl_options.h"
#include "transport/nccl_signal.h"
#include "transport/nccl_star.h"

namespace guildhall {

// Frames sent to one peer over NCCL that it has not confirmed; beyond it acquire() says resource_exhausted.
inline constexpr size_t kMaxUnconfirmedFrames = 256;

class NcclExchange final : public Exchange {
 public:
  static Result<std::unique_ptr<Exchange>> open(const NcclOptions& options,
                                                std::unique_ptr<Exchange> signals);
  ~NcclExchange() override;

  std::string local_address() const override { return signals_->local_address(); }
  Result<PeerId> connect(std::string_view name, std::string_view address) override;
  void disconnect(PeerId peer) override;
  Result<std::span<std::byte>> acquire(PeerId peer, size_t bytes) override;
  void post(std::span<const Outgoing> frames) override;
  size_t poll(ExchangeHandler& handler) override;
  FrameHold hold() override;
  void wait(std::chrono::nanoseconds timeout) override;
  void wake() override { signals_->wake(); }
  std::string describe(PeerId peer) const override;

  struct Counters {
    uint64_t sent = 0, received = 0;                      // frames
    uint64_t sent_over_nccl = 0, received_over_nccl = 0;  // of them
    uint64_t sent_again = 0;                              // of sent_over_nccl, as their communicator ended
    uint64_t generations = 0, generations_live = 0;       // hub: begun; all joined
    uint64_t shrunk = 0;                                  // hub: live ones made of the one before
    uint64_t given_up = 0;                                // communicators that failed here
  };
  const Counters& counters() const { return counters_; }
  const NcclGraphUse& graphs() const { return graphs_; }

 private:
  using Transfer = NcclPipe::Transfer;

  // Sent over NCCL, and not confirmed.
  struct Sent {
    uint64_t sequence;
    uint32_t generation;
    uint64_t ordinal;  // among the frames of that generation to that peer
    size_t bytes;
    NcclMemory::Buffer frame;
  };
  // A frame's place in its peer's order, and its bytes once they have come.
  struct Inbound {
    bool arrived = false;
    size_t bytes = 0;
    const std::byte* data = nullptr;
    FrameHold signal;          // it lies in a signal
    NcclMemory::Buffer frame;  // or here, since it was announced
  };
  struct Peer {
    std::string name;
    uint32_t link = 0;     // ours to it
    uint32_t in_link = 0;  // its to us; 0: not heard of
    bool lost = false;
    size_t acquired_bytes = 0;
    NcclMemory::Buffer acquired;
    uint64_t next_out = 0;
    uint32_t out_generation = 0;  // the one that next_ordinal counts in
    uint64_t next_ordinal = 0;
    std::deque<Sent> unconfirmed;
    uint64_t next_in = 0;
    std::deque<Inbound> inbound;  // from next_in on
    uint32_t ack_generation = 0;  // what it is to be told
    uint64_t ack_count = 0;
    uint64_t num_unacked = 0;           // of those, it has not been told yet
    std::unique_ptr<NcclStar> star;     // the peer's, that we are a member of
    Clock::time_point benched_until{};  // hub: it did not join in time
  };
  struct Ready {
    PeerId peer;
    bool lost = false;
    Inbound frame;
    Status why;
  };
  // Where frames to a peer go over NCCL.
  struct Route {
    NcclStar* star;
    int rank;
  };

  NcclExchange(const NcclOptions& options, std::unique_ptr<Exchange> signals)
      : options_(options), signals_(std::move(signals)), graphs_{.most_bytes = options.graph_frame_bytes} {}

  // Peers (nccl_exchange.cc).
  class Listener;
  Peer* find(PeerId id);  // not lost
  void lose(PeerId id, Status why);
  void forget(PeerId id, Peer& peer);  // its frames and its part in communicators
  Result<void> use_device();
  void end_hold(uint32_t held_idx) override { held_.take(held_idx); }
  bool busy() const;

  // A frame's way out and in (nccl_frames.cc).
  std::optional<Route> route(PeerId id, const Peer& peer, size_t bytes) const;
  size_t wire_bytes(size_t bytes, size_t of_largest) const;
  size_t largest_small_frame(std::span<const Outgoing> frames) const;
  void send_signal(PeerId id, Peer& peer, SignalHeader header, std::span<const std::byte> body = {});
  void send_again(PeerId id, Peer& peer);
  void confirm(Peer& peer, const SignalHeader& header);
  void on_signal(PeerId id, std::span<const std::byte> bytes);
  Result<void> take_signal(PeerId id, Peer& peer, const SignalHeader& header,
                           std::span<const std::byte> body);
  Result<void> take_frame(Peer& peer, const SignalHeader& header, std::span<const std::byte> body);
  Result<void> take_announcement(PeerId id, Peer& peer, const SignalHeader& header);
  void take_received(PeerId id, Transfer transfer);
  void start_receives();
  void deliver_in_order(PeerId id, Peer& peer);

  // Generations (nccl_hub.cc).
  void take_offer(PeerId id, Peer& peer, const SignalHeader& header, std::span<const std::byte> body);
  void take_news(PeerId id, Peer& peer, const SignalHeader& header);
  void progress_stars();
  void retire(std::unique_ptr<NcclStar>& star);  // its end, and that of groups being gathered for it
  void revoke(NcclStar& star);
  void give_up(PeerId hub, Peer& peer, const Status& why);  // as its member
  void manage_generations();
  void members_changed();
  void begin_generation();
  void close_generation(const Status& why);
  void tell_members(SignalKind kind);
  int rank_of(PeerId id) const;  // in our star; 0: none

  const NcclOptions options_;
  NcclMemory pinned_{MemoryKind::pinned}, device_{MemoryKind::device};
  const std::unique_ptr<Exchange> signals_;
  NcclGraphUse graphs_;  // outlives the stars
  std::unordered_map<PeerId, Peer> peers_;
  uint32_t last_link_ = 0;
  std::thread::id device_set_for_;

  // As a hub.
  std::unique_ptr<NcclStar> star_;
  std::unique_ptr<NcclStar> ended_star_;         // revoked, was live: the next one may be what is left of it
  std::vector<PeerId> members_, ended_members_;  // by rank; [0] is this end
  std::set<PeerId> accepted_, joined_;
  uint32_t last_generation_ = 0;
  bool stale_ = false;  // who is there has changed
  bool by_shrinking_ = false;
  Clock::time_point changed_at_{}, join_by_{};

  std::unordered_map<NcclStar*, std::vector<Transfer>> sending_,
      receiving_;                          // groups, within post() and poll()
  std::vector<Transfer> sent_, received_;  // within progress_stars()
  std::vector<Ready> ready_;               // for the next poll()
  std::vector<Ready> lent_;                // by the last poll(), until the next
  size_t on_frame_idx_ = 0;                // in lent_, within on_frame()
  HeldFrames<Inbound> held_;               // lent for longer
  Counters counters_;
};

}  // namespace guildhall
