// exchange.h: one process's end of the data plane. Frames go to peers and come from them; what is in a frame
// is proto/exchange.h's business. Implementations: loopback (in-process, seeded faults), ucx, later nccl.
//
// Thread: one owner thread calls everything but wake() and local_address(). Nothing blocks but wait().
// Loss: a frame is delivered whole or not at all, in order per peer. A peer that fails is reported once
// through on_peer_lost, after which its id is dead and frames to it are refused with Code::peer_lost.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace guildhall {

using PeerId = uint32_t;  // given by connect(); never reused within a process

class ExchangeHandler {
 public:
  virtual ~ExchangeHandler() = default;
  // `bytes` is 8-byte aligned and valid until the next poll(), though the peer be lost or disconnected.
  virtual void on_frame(PeerId peer, std::span<const std::byte> bytes) = 0;
  virtual void on_peer_lost(PeerId peer, const Status& why) = 0;
};

class Exchange;

// Keeps one frame's bytes valid; ends with it. Must not outlive the exchange.
class FrameHold {
 public:
  FrameHold() = default;
  FrameHold(Exchange& exchange, uint32_t held_idx) : exchange_(&exchange), held_idx_(held_idx) {}
  FrameHold(FrameHold&& other) noexcept
      : exchange_(std::exchange(other.exchange_, nullptr)), held_idx_(other.held_idx_) {}
  FrameHold& operator=(FrameHold&& other) noexcept {
    std::swap(exchange_, other.exchange_);
    std::swap(held_idx_, other.held_idx_);
    return *this;
  }
  inline ~FrameHold();

 private:
  Exchange* exchange_ = nullptr;
  uint32_t held_idx_ = 0;
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  // What a peer passes to its connect() to reach this end. Opaque; travels in the control plane's hello.
  virtual std::string local_address() const = 0;

  // Makes the peer with that address reachable. Both ends connect to each other before frames flow; frames
  // from an end that was not connected yet are held until it is, up to kMaxUnclaimedFrames.
  virtual Result<PeerId> connect(std::string_view name, std::string_view address) = 0;
  virtual void disconnect(PeerId peer) = 0;

  // Memory to pack the next frame for `peer` into: at least `bytes` long, 64-byte aligned, owned by the
  // exchange, and possibly the peer's own: write it once, front to back, and do not read it. Posting it gives
  // it back. At most one is acquired per peer at a time.
  virtual Result<std::span<std::byte>> acquire(PeerId peer, size_t bytes) = 0;

  struct Outgoing {
    PeerId peer;
    size_t bytes;  // of the acquired region
  };
  // Sends acquired regions, all destinations of one step together. A destination that fails is reported
  // through on_peer_lost at the next poll, not here.
  virtual void post(std::span<const Outgoing> frames) = 0;

  // ---- Tails: a frame's last bytes in a device's memory, where a GPU wrote them or will read them, and from
  // where they cross without the host between. What the frame says is the same: an end that was given no
  // device gets it whole, in host memory. (An end is given one by its implementation's options.)

  // Whether this end was given a device that its wire knows.
  virtual bool has_tails() const { return false; }
  // Whether `bytes` of rows to this peer should go as a tail: it can, and they are many enough (TailPool).
  virtual bool sends_tail(PeerId, size_t) const { return false; }
  // Device memory for the last `bytes` (> 0) of the frame acquired for this peer: at least 256-byte aligned,
  // owned by the exchange. What writes it must be over before post(), which gives it back with the region.
  // Precondition: has_tails(), and a region is acquired.
  virtual Result<std::byte*> acquire_tail(PeerId, size_t) {
    return Status{Code::unsupported, "frames of this exchange have no tails"};
  }
  // Within on_frame(), before hold(): the tail that follows the frame's bytes, in this end's device memory;
  // empty when there is none. Valid as long as they are.
  virtual std::span<const std::byte> tail() const { return {}; }

  // Makes progress and delivers what has arrived. Returns the number of callbacks made.
  virtual size_t poll(ExchangeHandler& handler) = 0;

  // Within on_frame(): that frame's bytes stay valid until the hold ends. Its sender may run out of room
  // meanwhile, so a hold is for as long as it takes to answer, not for keeping.
  virtual FrameHold hold() = 0;

  // Sleeps until poll() may have work, wake() was called, or the time is over. How eagerly it spins first is
  // the implementation's option (transport.wait in the configuration).
  virtual void wait(std::chrono::nanoseconds timeout) = 0;
  virtual void wake() = 0;  // any thread

  // What carries frames to this peer, for people: "ucx posix+cma", "ucx tcp eth0", "loopback".
  virtual std::string describe(PeerId peer) const = 0;

 private:
  friend class FrameHold;
  virtual void end_hold(uint32_t held_idx) = 0;
};

inline FrameHold::~FrameHold() {
  if (exchange_) exchange_->end_hold(held_idx_);
}

// A hello may be overtaken by its peer's first frames; more is a fault. An exchange's own first message
// counts.
inline constexpr size_t kMaxUnclaimedFrames = 64;

}  // namespace guildhall
