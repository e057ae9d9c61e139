// faulty_exchange.h: any exchange, made hostile. What its owner sends is delayed, overtaken, doubled, lost,
// cut, lengthened, corrupted or relabelled, drawn from a seed or scripted by the test; and it dies, as a
// killed process does, in the phase of a round that the test names. What arrives is left alone.
//
// Delays count polls of this end, so that ends on one thread replay exactly from their seeds.
// Thread: as Exchange says; set_faults, set_script, die_at and num_pending are for any thread.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <unordered_map>
#include <vector>

#include "transport/exchange.h"
#include "transport/held_frames.h"

namespace guildhall {

class FaultyExchange final : public Exchange {
 public:
  using Bytes = std::vector<std::byte>;

  // Probabilities in [0,1], per outgoing frame.
  struct Faults {
    double drop = 0;
    double duplicate = 0;         // sent twice
    double reorder = 0;           // held back, so that later frames to the same peer overtake it
    double truncate = 0;          // cut to a shorter length
    double oversize = 0;          // random bytes behind it
    double corrupt_header = 0;    // one byte of the header changed
    double corrupt_payload = 0;   // sealed with its checksum, then one byte of the payload changed
    double stale_generation = 0;  // of the link before
    double newer_version = 0;
    uint32_t max_delay_polls = 0;  // 0..this, order kept
  };

  // When this end dies: before it polls again, as a frame arrives, as the next frame's memory is asked for (a
  // worker does so before it runs the experts), before that frame leaves, or once it has left.
  enum class Phase { never, at_once, frame_arrives, acquires, posts, posted };

  // What goes out instead of a frame; called by the owner. The random faults come after it.
  using Script = std::function<std::vector<Bytes>(PeerId peer, Bytes frame)>;

  FaultyExchange(std::unique_ptr<Exchange> inner, uint64_t seed);

  void set_faults(const Faults& faults);
  void set_script(Script script);  // an empty one ends the last
  void die_at(Phase phase);
  bool dead() const { return dead_; }
  size_t num_pending() const { return num_pending_; }  // frames delayed here

  std::string local_address() const override { return local_address_; }
  Result<PeerId> connect(std::string_view name, std::string_view address) override;
  void disconnect(PeerId peer) override;
  Result<std::span<std::byte>> acquire(PeerId peer, size_t bytes) override;
  void post(std::span<const Outgoing> frames) override;
  size_t poll(ExchangeHandler& handler) override;
  FrameHold hold() override;
  void wait(std::chrono::nanoseconds timeout) override;
  void wake() override;
  std::string describe(PeerId peer) const override;

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  struct Peer {
    std::vector<Line> acquired;
    uint64_t last_due_poll = 0;
    bool lost = false;
  };
  struct Pending {
    PeerId peer;
    Bytes frame;
  };
  void end_hold(uint32_t held_idx) override;

  class Filter;  // between the inner exchange and the owner's handler

  bool dies(Phase phase);
  void bury();
  void draw_and_send(PeerId peer, Bytes frame, const Faults& faults);
  void spoil(Bytes& frame, const Faults& faults);
  void schedule(PeerId peer, Bytes frame, const Faults& faults);
  void hand_over(PeerId peer, std::span<const std::byte> frame);
  void forget_pending(PeerId peer);
  bool chance(double probability);

  const std::string local_address_;
  mutable std::mutex mutex_;  // guards inner_'s end against wake(), and the controls
  std::unique_ptr<Exchange> inner_;
  Faults faults_;
  Script script_;
  std::atomic<Phase> death_{Phase::never};
  std::atomic<bool> dead_{false};
  std::atomic<size_t> num_pending_{0};

  // The owner's.
  std::mt19937_64 random_;
  std::unordered_map<PeerId, Peer> peers_;
  std::multimap<uint64_t, Pending> pending_;  // by the poll they are due at
  uint64_t poll_idx_ = 0;
  HeldFrames<FrameHold> holds_;  // of the inner exchange
  size_t num_held_ = 0;
};

}  // namespace guildhall
