// faulty_exchange.cc: the faults, in the order a frame meets them.
#include "tests/support/faulty_exchange.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "proto/codec.h"

namespace guildhall {
namespace {

constexpr uint32_t kReorderPolls = 8;
constexpr size_t kOversizeBytes = 4096;

// A whole header in front of the frame, changed; shorter frames are left alone.
template <class Change>
void change_header(FaultyExchange::Bytes& frame, Change change) {
  if (frame.size() < sizeof(FrameHeader)) return;
  FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof header);
  change(header);
  std::memcpy(frame.data(), &header, sizeof header);
}

Status dead_end() { return {Code::peer_lost, "this end is dead"}; }

}  // namespace

class FaultyExchange::Filter final : public ExchangeHandler {
 public:
  Filter(FaultyExchange& owner, ExchangeHandler& handler) : owner_(owner), handler_(handler) {}
  void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
    if (owner_.dead_ || owner_.dies(Phase::frame_arrives)) return;
    handler_.on_frame(peer, bytes);
  }
  void on_peer_lost(PeerId peer, const Status& why) override {
    if (owner_.dead_) return;
    owner_.forget_pending(peer);
    owner_.peers_[peer].lost = true;
    handler_.on_peer_lost(peer, why);
  }

 private:
  FaultyExchange& owner_;
  ExchangeHandler& handler_;
};

FaultyExchange::FaultyExchange(std::unique_ptr<Exchange> inner, uint64_t seed)
    : local_address_(inner->local_address()), inner_(std::move(inner)), random_(seed) {}

// ---- controls

void FaultyExchange::set_faults(const Faults& faults) {
  std::lock_guard lock(mutex_);
  faults_ = faults;
}

void FaultyExchange::set_script(Script script) {
  std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

void FaultyExchange::die_at(Phase phase) {
  death_ = phase;
  wake();
}

bool FaultyExchange::dies(Phase phase) {
  Phase expected = phase;
  if (!death_.compare_exchange_strong(expected, Phase::never)) return false;
  dead_ = true;
  pending_.clear();
  num_pending_ = 0;
  return true;
}

// Not as it dies: its owner may read what has arrived until the next poll, and what it holds for longer.
void FaultyExchange::bury() {
  if (num_held_ > 0) return;
  std::lock_guard lock(mutex_);
  inner_.reset();
}

// ---- Exchange

Result<PeerId> FaultyExchange::connect(std::string_view name, std::string_view address) {
  if (dead_) return dead_end();
  GH_ASSIGN(const PeerId peer, inner_->connect(name, address));
  peers_[peer] = {};
  return peer;
}

void FaultyExchange::disconnect(PeerId peer) {
  forget_pending(peer);
  peers_.erase(peer);
  if (!dead_) inner_->disconnect(peer);
}

Result<std::span<std::byte>> FaultyExchange::acquire(PeerId peer, size_t bytes) {
  if (dead_ || dies(Phase::acquires)) return dead_end();
  const auto found = peers_.find(peer);
  if (found == peers_.end() || found->second.lost) return Status{Code::peer_lost, "the peer is lost"};
  std::vector<Line>& lines = found->second.acquired;
  lines.resize(bytes / sizeof(Line) + 1);
  return std::span(reinterpret_cast<std::byte*>(lines.data()), bytes);
}

void FaultyExchange::post(std::span<const Outgoing> frames) {
  Faults faults;
  Script script;
  {
    std::lock_guard lock(mutex_);
    faults = faults_;
    script = script_;
  }
  for (const Outgoing& outgoing : frames) {
    const auto found = peers_.find(outgoing.peer);
    if (dead_ || dies(Phase::posts)) return;
    if (found == peers_.end() || found->second.lost) continue;
    const auto* begin = reinterpret_cast<const std::byte*>(found->second.acquired.data());
    Bytes frame(begin, begin + outgoing.bytes);
    if (!script) {
      draw_and_send(outgoing.peer, std::move(frame), faults);
    } else {
      for (Bytes& instead : script(outgoing.peer, std::move(frame)))
        draw_and_send(outgoing.peer, std::move(instead), faults);
    }
    if (dies(Phase::posted)) return;
  }
}

size_t FaultyExchange::poll(ExchangeHandler& handler) {
  if (dead_ || dies(Phase::at_once)) return bury(), 0;
  ++poll_idx_;
  while (!pending_.empty() && pending_.begin()->first <= poll_idx_) {
    const auto due = pending_.extract(pending_.begin());
    --num_pending_;
    hand_over(due.mapped().peer, due.mapped().frame);
  }
  Filter filter(*this, handler);
  return inner_->poll(filter);
}

FrameHold FaultyExchange::hold() {
  ++num_held_;
  return {*this, holds_.put(inner_->hold())};
}

void FaultyExchange::end_hold(uint32_t held_idx) {
  --num_held_;
  holds_.take(held_idx);
}

void FaultyExchange::wait(std::chrono::nanoseconds timeout) {
  if (dead_)
    return std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(timeout, std::chrono::milliseconds(5)));
  if (pending_.empty()) inner_->wait(timeout);  // only polls bring the pending nearer
}

void FaultyExchange::wake() {
  std::lock_guard lock(mutex_);
  if (inner_) inner_->wake();
}

std::string FaultyExchange::describe(PeerId peer) const { return dead_ ? "dead" : inner_->describe(peer); }

// ---- faults

bool FaultyExchange::chance(double probability) {
  // Drawn whatever the probability is, so that one fault's setting does not change the others' schedule.
  return static_cast<double>(random_() >> 11) * 0x1p-53 < probability;
}

void FaultyExchange::draw_and_send(PeerId peer, Bytes frame, const Faults& faults) {
  spoil(frame, faults);
  const bool drop = chance(faults.drop), twice = chance(faults.duplicate);
  if (drop) return;
  if (twice) schedule(peer, frame, faults);
  schedule(peer, std::move(frame), faults);
}

void FaultyExchange::spoil(Bytes& frame, const Faults& faults) {
  if (chance(faults.stale_generation)) change_header(frame, [](FrameHeader& header) { --header.generation; });
  if (chance(faults.newer_version)) change_header(frame, [](FrameHeader& header) { ++header.version; });
  const bool payload = chance(faults.corrupt_payload), header = chance(faults.corrupt_header);
  const bool truncate = chance(faults.truncate), oversize = chance(faults.oversize);
  const uint64_t where = random_(), how = random_();
  const auto flip = static_cast<std::byte>(1 + how % 255);
  if (payload && frame.size() > sizeof(FrameHeader)) {
    seal_frame(frame);
    frame[sizeof(FrameHeader) + where % (frame.size() - sizeof(FrameHeader))] ^= flip;
  }
  if (header && !frame.empty()) frame[where % std::min(frame.size(), sizeof(FrameHeader))] ^= flip;
  if (truncate && !frame.empty()) frame.resize(where % frame.size());
  if (oversize) frame.insert(frame.end(), 1 + how % kOversizeBytes, flip);
}

void FaultyExchange::schedule(PeerId peer, Bytes frame, const Faults& faults) {
  const bool reorder = chance(faults.reorder);
  const auto drawn = static_cast<uint32_t>(random_() >> 32);
  uint64_t due = poll_idx_ + drawn % (faults.max_delay_polls + 1);
  if (reorder) {
    due += 1 + drawn % kReorderPolls;
  } else {
    uint64_t& last = peers_[peer].last_due_poll;
    due = last = std::max(last, due);
  }
  if (due <= poll_idx_) return hand_over(peer, frame);
  pending_.emplace(due, Pending{peer, std::move(frame)});
  ++num_pending_;
}

void FaultyExchange::hand_over(PeerId peer, std::span<const std::byte> frame) {
  const auto region = inner_->acquire(peer, frame.size());
  if (region.has_error()) return;  // its loss is reported by poll
  std::copy(frame.begin(), frame.end(), region->begin());
  const Outgoing outgoing{peer, frame.size()};
  inner_->post({&outgoing, 1});
}

void FaultyExchange::forget_pending(PeerId peer) {
  num_pending_ -= std::erase_if(pending_, [&](const auto& entry) { return entry.second.peer == peer; });
}

}  // namespace guildhall
