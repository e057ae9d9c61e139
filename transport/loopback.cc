// loopback.cc: one loopback end: its peers, its letter box, and the frames whose delay is not over.
#include "transport/loopback.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <thread>
#include <unordered_map>

#include "base/check.h"
#include "base/clock.h"
#include "proto/exchange.h"
#include "transport/held_frames.h"
#include "transport/loopback_fabric.h"
#include "transport/peer_ids.h"

namespace guildhall {
namespace {

constexpr std::string_view kAddressPrefix = "loopback:";

class LoopbackEnd final : public Exchange {
 public:
  LoopbackEnd(std::shared_ptr<LoopbackFabric::Shared> fabric, std::shared_ptr<LoopbackMailbox> mailbox,
              uint64_t instance)
      : fabric_(std::move(fabric)), mailbox_(std::move(mailbox)), instance_(instance) {}

  ~LoopbackEnd() override { fabric_->kill(instance_); }

  std::string local_address() const override { return fmt::format("{}{}", kAddressPrefix, instance_); }
  Result<PeerId> connect(std::string_view name, std::string_view address) override;
  void disconnect(PeerId peer) override;
  Result<std::span<std::byte>> acquire(PeerId peer, size_t bytes) override;
  void post(std::span<const Outgoing> frames) override;
  size_t poll(ExchangeHandler& handler) override;
  void wait(std::chrono::nanoseconds timeout) override;
  void wake() override { mailbox_->wake(); }
  bool has_tails() const override { return mailbox_->tails != nullptr; }
  bool sends_tail(PeerId peer, size_t bytes) const override {
    const auto found = peers_.find(peer);
    return mailbox_->tails && mailbox_->tails->wants(bytes) && found != peers_.end() &&
           found->second.mailbox->tails == mailbox_->tails;
  }
  Result<std::byte*> acquire_tail(PeerId peer, size_t bytes) override;
  std::span<const std::byte> tail() const override {
    return {delivered_.back().tail.get(), delivered_.back().tail_bytes};
  }
  FrameHold hold() override {
    GH_CHECK(delivered_.size() > 0 && delivered_.back().buffer);
    return {*this, held_.put(std::move(delivered_.back()))};
  }
  std::string describe(PeerId) const override { return "loopback"; }

 private:
  void end_hold(uint32_t held_idx) override { fabric_->give(held_.take(held_idx).buffer); }

  struct Peer {
    std::string name;
    uint64_t instance;
    uint32_t link;  // ours to it
    std::shared_ptr<LoopbackMailbox> mailbox;
    FrameBuffer acquired;
    TailBuffer acquired_tail;
    size_t acquired_tail_bytes = 0;
    uint64_t last_due_poll = 0;
    bool lost = false;
  };
  struct Delayed {
    uint64_t due_poll;
    PeerId peer;
    LoopbackArrival arrival;
  };

  struct Lent {
    FrameBuffer buffer;
    TailBuffer tail;
    size_t tail_bytes = 0;
  };

  void send(Peer& peer, size_t bytes);
  void travel(LoopbackArrival arrival);
  void admit(LoopbackArrival arrival, ExchangeHandler& handler);
  void deliver(PeerId peer, LoopbackArrival arrival, ExchangeHandler& handler);
  void delay(uint64_t due_poll, PeerId peer, LoopbackArrival arrival);

  const std::shared_ptr<LoopbackFabric::Shared> fabric_;
  const std::shared_ptr<LoopbackMailbox> mailbox_;
  const uint64_t instance_;
  std::unordered_map<PeerId, Peer> peers_;
  InboundLinks<LoopbackArrival> links_;
  std::vector<LoopbackArrival> taken_;      // swapped with the mailbox's, so that neither allocates
  std::deque<LoopbackArrival> on_the_way_;  // whose latency is not over, by when it is
  std::deque<Delayed> delayed_;             // by due poll, then arrival
  std::vector<Lent> delivered_;             // to the handler until the next poll
  HeldFrames<Lent> held_;                   // and longer
  uint64_t poll_idx_ = 0;
  size_t num_callbacks_ = 0;
};

Result<PeerId> LoopbackEnd::connect(std::string_view name, std::string_view address) {
  uint64_t instance = 0;
  const char* end = address.data() + address.size();
  if (!address.starts_with(kAddressPrefix) ||
      std::from_chars(address.data() + kAddressPrefix.size(), end, instance).ptr != end)
    return Status{Code::invalid_argument,
                  fmt::format("peer {}: not a loopback address; both ends must use the same fabric", name)};
  Peer peer{.name = std::string(name), .instance = instance};
  {
    std::lock_guard lock(fabric_->mutex);
    auto found = fabric_->ends.find(instance);
    if (found == fabric_->ends.end())
      return Status{Code::not_found,
                    fmt::format("peer {}: no live loopback end has address {}", name, address)};
    peer.mailbox = found->second;
    peer.link = ++fabric_->last_link;
  }
  const PeerId id = next_peer_id();
  auto claimed = links_.claim(instance, id);
  if (!claimed)
    return Status{claimed.error().code, fmt::format("peer {}: {}", name, claimed.error().message)};
  for (auto& arrival : claimed->stale) fabric_->give(std::move(arrival.buffer));
  if (links_.lost_frames(instance)) mailbox_->put({.tag = {.instance = instance, .link = 0}, .lost = true});
  if (!claimed->frames.empty()) peer.last_due_poll = poll_idx_ + 1;  // later frames do not overtake these
  for (auto& arrival : claimed->frames) delay(poll_idx_ + 1, id, std::move(arrival));
  peers_.emplace(id, std::move(peer));
  return id;
}

void LoopbackEnd::disconnect(PeerId id) {
  auto found = peers_.find(id);
  if (found == peers_.end()) return;
  if (!found->second.lost) links_.retire(found->second.instance);
  fabric_->give(std::move(found->second.acquired));
  peers_.erase(found);
}

Result<std::span<std::byte>> LoopbackEnd::acquire(PeerId id, size_t bytes) {
  auto found = peers_.find(id);
  if (found == peers_.end() || found->second.lost)
    return Status{Code::peer_lost,
                  fmt::format("peer {} is lost or disconnected",
                              found == peers_.end() ? fmt::format("id {}", id) : found->second.name)};
  if (bytes > kMaxFrameBytes)
    return Status{Code::invalid_argument, fmt::format("peer {}: a frame of {} bytes exceeds the limit of {}",
                                                      found->second.name, bytes, kMaxFrameBytes)};
  GH_CHECK(!found->second.acquired);
  found->second.acquired = fabric_->take(bytes);
  if (!found->second.acquired)
    return Status{Code::resource_exhausted,
                  fmt::format("peer {}: no memory for a frame of {} bytes", found->second.name, bytes)};
  return std::span(found->second.acquired.data(), bytes);
}

Result<std::byte*> LoopbackEnd::acquire_tail(PeerId id, size_t bytes) {
  Peer& peer = peers_.at(id);
  GH_CHECK(mailbox_->tails && peer.acquired && !peer.acquired_tail && bytes > 0);
  GH_ASSIGN(peer.acquired_tail, mailbox_->tails->take(bytes));
  peer.acquired_tail_bytes = bytes;
  return peer.acquired_tail.get();
}

void LoopbackEnd::post(std::span<const Outgoing> frames) {
  for (const Outgoing& frame : frames) {
    auto found = peers_.find(frame.peer);
    if (found == peers_.end()) continue;
    Peer& peer = found->second;
    if (peer.lost || mailbox_->dead) {
      fabric_->give(std::move(peer.acquired));
      peer.acquired_tail.reset();
      continue;
    }
    GH_CHECK(peer.acquired && frame.bytes <= peer.acquired.capacity());
    send(peer, frame.bytes);
  }
}

void LoopbackEnd::send(Peer& peer, size_t bytes) {
  LoopbackArrival arrival{.tag = {instance_, peer.link}, .buffer = std::move(peer.acquired), .bytes = bytes};
  arrival.tail = std::move(peer.acquired_tail);
  arrival.tail_bytes = std::exchange(peer.acquired_tail_bytes, 0);
  if (fabric_->any_faults.load(std::memory_order_relaxed)) {
    const LoopbackFate fate =
        fabric_->draw({mailbox_->name, peer.mailbox->name}, arrival.buffer.data(), arrival.bytes);
    if (fate.dies) return fabric_->kill(instance_);
    if (fate.lost) return fabric_->give(std::move(arrival.buffer));
    if (fate.latency.count() > 0) arrival.due = Clock::now() + fate.latency;
    arrival.delay_polls = fate.delay_polls;
    arrival.overtakable = fate.overtakable;
    if (fate.duplicate) {
      LoopbackArrival copy{.tag = arrival.tag,
                           .buffer = fabric_->take(arrival.bytes),
                           .bytes = arrival.bytes,
                           .tail = arrival.tail,
                           .tail_bytes = arrival.tail_bytes,
                           .due = arrival.due,
                           .delay_polls = arrival.delay_polls,
                           .overtakable = arrival.overtakable};
      if (copy.buffer) {
        std::copy_n(arrival.buffer.data(), arrival.bytes, copy.buffer.data());
        peer.mailbox->put(std::move(copy));
      }
    }
  }
  peer.mailbox->put(std::move(arrival));
}

size_t LoopbackEnd::poll(ExchangeHandler& handler) {
  ++poll_idx_;
  num_callbacks_ = 0;
  for (Lent& lent : delivered_) fabric_->give(std::move(lent.buffer));
  delivered_.clear();
  if (mailbox_->dead) return 0;
  while (!delayed_.empty() && delayed_.front().due_poll <= poll_idx_) {
    Delayed due = std::move(delayed_.front());
    delayed_.pop_front();
    deliver(due.peer, std::move(due.arrival), handler);
  }
  if (mailbox_->something.load(std::memory_order_acquire)) {
    std::vector<LoopbackArrival> taken = std::move(taken_);
    {
      std::lock_guard lock(mailbox_->mutex);
      taken.swap(mailbox_->arrivals);
      mailbox_->something.store(mailbox_->woken, std::memory_order_relaxed);
    }
    for (LoopbackArrival& arrival : taken) {
      if (arrival.due == Clock::time_point{})
        admit(std::move(arrival), handler);
      else
        travel(std::move(arrival));
    }
    taken.clear();
    taken_ = std::move(taken);
  }
  while (!on_the_way_.empty() && on_the_way_.front().due <= Clock::now()) {
    LoopbackArrival arrived = std::move(on_the_way_.front());
    on_the_way_.pop_front();
    admit(std::move(arrived), handler);
  }
  return num_callbacks_;
}

void LoopbackEnd::travel(LoopbackArrival arrival) {
  auto after =
      std::upper_bound(on_the_way_.begin(), on_the_way_.end(), arrival.due,
                       [](Clock::time_point due, const LoopbackArrival& other) { return due < other.due; });
  on_the_way_.insert(after, std::move(arrival));
}

void LoopbackEnd::admit(LoopbackArrival arrival, ExchangeHandler& handler) {
  if (arrival.lost) {
    for (auto& [id, peer] : peers_) {
      if (peer.instance != arrival.tag.instance || peer.lost) continue;
      peer.lost = true;
      links_.retire(peer.instance);
      fabric_->give(std::move(peer.acquired));
      peer.acquired_tail.reset();
      ++num_callbacks_;
      handler.on_peer_lost(id,
                           {Code::peer_lost, fmt::format("peer {}: its loopback end is gone", peer.name)});
      return;  // the callback may have changed peers_
    }
    return;
  }
  const auto owner = links_.owner_of(arrival.tag);
  if (!owner) {
    if (links_.can_hold(arrival.tag) && links_.hold(arrival.tag, arrival)) return;
    fabric_->give(std::move(arrival.buffer));
    std::lock_guard lock(fabric_->mutex);
    ++fabric_->counters.unclaimed_dropped;
    return;
  }
  Peer& peer = peers_.at(owner->peer);
  uint64_t due_poll = poll_idx_ + arrival.delay_polls;
  if (!arrival.overtakable) due_poll = peer.last_due_poll = std::max(peer.last_due_poll, due_poll);
  if (due_poll <= poll_idx_) return deliver(owner->peer, std::move(arrival), handler);
  delay(due_poll, owner->peer, std::move(arrival));
}

void LoopbackEnd::delay(uint64_t due_poll, PeerId peer, LoopbackArrival arrival) {
  auto after = std::upper_bound(delayed_.begin(), delayed_.end(), due_poll,
                                [](uint64_t due, const Delayed& other) { return due < other.due_poll; });
  delayed_.insert(after, {due_poll, peer, std::move(arrival)});
}

void LoopbackEnd::deliver(PeerId id, LoopbackArrival arrival, ExchangeHandler& handler) {
  auto found = peers_.find(id);
  if (found == peers_.end() || found->second.lost) return fabric_->give(std::move(arrival.buffer));
  const std::span<const std::byte> bytes(arrival.buffer.data(), arrival.bytes);
  delivered_.push_back({std::move(arrival.buffer), std::move(arrival.tail), arrival.tail_bytes});
  ++num_callbacks_;
  handler.on_frame(id, bytes);
}

void LoopbackEnd::wait(std::chrono::nanoseconds timeout) {
  if (!delayed_.empty()) return;  // only polls bring them nearer
  auto deadline = Clock::now() + std::min<std::chrono::nanoseconds>(timeout, kLongestWait);
  if (!on_the_way_.empty()) deadline = std::min(deadline, on_the_way_.front().due);
  const WaitOptions& options = fabric_->wait;
  const auto spin_until =
      options.mode == WaitMode::spin ? deadline : std::min(deadline, Clock::now() + options.spin);
  while (!mailbox_->something.load(std::memory_order_acquire) && Clock::now() < spin_until) {
    if (options.mode == WaitMode::adaptive) std::this_thread::yield();  // the sender may need this core
  }
  std::unique_lock lock(mailbox_->mutex);
  mailbox_->changed.wait_until(lock, deadline, [&] { return mailbox_->something.load(); });
  mailbox_->woken = false;
  mailbox_->something.store(!mailbox_->arrivals.empty(), std::memory_order_relaxed);
}

}  // namespace

std::unique_ptr<Exchange> LoopbackFabric::make_end(std::string name, TailPool* tails) {
  auto mailbox = std::make_shared<LoopbackMailbox>(std::move(name), tails);
  uint64_t instance;
  {
    std::lock_guard lock(shared_->mutex);
    instance = ++shared_->last_instance;
    shared_->ends.emplace(instance, mailbox);
  }
  return std::make_unique<LoopbackEnd>(shared_, std::move(mailbox), instance);
}

}  // namespace guildhall
