// nccl_frames.cc: a frame's way out, over NCCL or with a signal, and its way in, back into order.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "transport/nccl_exchange.h"

namespace guildhall {
namespace {

// A peer that sends nothing of its own is told after so many frames, so that it does not keep them for ever.
constexpr uint64_t kConfirmEvery = 8;

SignalHeader signal_of(SignalKind kind) { return {.kind = static_cast<uint16_t>(kind)}; }

}  // namespace

// ---- out

std::optional<NcclExchange::Route> NcclExchange::route(PeerId id, const Peer& peer, size_t bytes) const {
  if (bytes < options_.min_frame_bytes || peer.lost) return std::nullopt;
  NcclStar* star = options_.is_hub ? star_.get() : peer.star.get();
  if (!star || star->state() != NcclStar::State::live) return std::nullopt;
  const int rank = options_.is_hub ? rank_of(id) : 0;
  if (options_.is_hub && rank == 0) return std::nullopt;  // came after this generation
  return Route{star, rank};
}

Result<std::span<std::byte>> NcclExchange::acquire(PeerId id, size_t bytes) {
  Peer* peer = find(id);
  if (!peer) {
    const auto lost = peers_.find(id);
    return Status{Code::peer_lost,
                  fmt::format("peer {} is lost or disconnected",
                              lost == peers_.end() ? fmt::format("id {}", id) : lost->second.name)};
  }
  if (bytes > options_.max_frame_bytes)
    return Status{Code::invalid_argument, fmt::format("peer {}: a frame of {} bytes exceeds the limit of {}",
                                                      peer->name, bytes, options_.max_frame_bytes)};
  if (peer->unconfirmed.size() >= kMaxUnconfirmedFrames)
    return Status{Code::resource_exhausted, fmt::format("peer {}: {} frames sent and not confirmed",
                                                        peer->name, kMaxUnconfirmedFrames)};
  GH_CHECK(!peer->acquired);
  GH_ASSIGN(peer->acquired, pinned_.take(bytes));
  peer->acquired_bytes = bytes;
  return std::span(peer->acquired.get(), bytes);
}

size_t NcclExchange::largest_small_frame(std::span<const Outgoing> frames) const {
  size_t largest = 0;
  for (const Outgoing& outgoing : frames)
    if (outgoing.bytes <= options_.graph_frame_bytes) largest = std::max(largest, outgoing.bytes);
  return largest;
}

// Few sizes for small frames, one for all that go together, so that the shapes of groups recur.
size_t NcclExchange::wire_bytes(size_t bytes, size_t of_largest) const {
  return bytes <= options_.graph_frame_bytes ? capacity_bytes(of_largest) : bucket_bytes(bytes);
}

void NcclExchange::post(std::span<const Outgoing> frames) {
  const size_t largest = largest_small_frame(frames);
  for (const Outgoing& outgoing : frames) {
    Peer* peer = find(outgoing.peer);
    if (!peer) continue;
    GH_CHECK(peer->acquired && outgoing.bytes <= peer->acquired_bytes);
    NcclMemory::Buffer frame = std::exchange(peer->acquired, nullptr);
    ++counters_.sent;
    const uint64_t sequence = peer->next_out++;
    const std::optional<Route> by = route(outgoing.peer, *peer, outgoing.bytes);
    if (!by) {
      SignalHeader header = signal_of(SignalKind::frame);
      header.sequence = sequence;
      send_signal(outgoing.peer, *peer, header, {frame.get(), outgoing.bytes});
      continue;
    }
    ++counters_.sent_over_nccl;
    SignalHeader header = signal_of(SignalKind::announce);
    header.generation = by->star->generation();
    header.of_sender = options_.is_hub;
    header.sequence = sequence;
    header.bytes = outgoing.bytes;
    header.wire_bytes = wire_bytes(outgoing.bytes, largest);
    if (peer->out_generation != header.generation) {
      peer->out_generation = header.generation;
      peer->next_ordinal = 0;
    }
    peer->unconfirmed.push_back({sequence, header.generation, peer->next_ordinal++, outgoing.bytes, frame});
    sending_[by->star].push_back(
        {true, by->rank, outgoing.bytes, header.wire_bytes, std::move(frame), sequence});
    send_signal(outgoing.peer, *peer, header);
  }
  // One group for all destinations: each goes on whatever becomes of the others.
  for (auto& [star, group] : sending_)
    if (!group.empty()) star->send(std::exchange(group, {}));
  sending_.clear();
  progress_stars();
}

// Every header tells what has come of the other direction.
void NcclExchange::send_signal(PeerId id, Peer& peer, SignalHeader header, std::span<const std::byte> body) {
  header.link = peer.link;
  header.ack_generation = peer.ack_generation;
  header.ack_count = peer.ack_count;
  peer.num_unacked = 0;
  if (!body.empty()) header.bytes = body.size();
  const auto region = signals_->acquire(id, sizeof header + body.size());
  if (region.has_error()) return lose(id, region.error());
  encode_signal(header, *region);
  if (!body.empty()) std::memcpy(region->data() + sizeof header, body.data(), body.size());
  const Outgoing outgoing{id, region->size()};
  signals_->post({&outgoing, 1});
}

// Their communicator is over. Those that had come all the same are known by their number.
void NcclExchange::send_again(PeerId id, Peer& peer) {
  for (const Sent& sent : std::exchange(peer.unconfirmed, {})) {
    if (peer.lost) return;
    ++counters_.sent_again;
    SignalHeader header = signal_of(SignalKind::resend);
    header.sequence = sent.sequence;
    send_signal(id, peer, header, {sent.frame.get(), sent.bytes});
  }
}

void NcclExchange::confirm(Peer& peer, const SignalHeader& header) {
  while (!peer.unconfirmed.empty() && peer.unconfirmed.front().generation == header.ack_generation &&
         peer.unconfirmed.front().ordinal < header.ack_count)
    peer.unconfirmed.pop_front();
}

// ---- in

void NcclExchange::on_signal(PeerId id, std::span<const std::byte> bytes) {
  Peer* peer = find(id);
  if (!peer) return;
  const Result<SignalHeader> header = decode_signal(bytes);
  if (header.has_error())
    return lose(id, {header.error().code, fmt::format("peer {}: {}", peer->name, header.error().message)});
  if (header->link < peer->in_link) return;
  if (header->link >
      peer->in_link) {  // the first we hear of it, or what we heard was the end of its last link
    peer->in_link = header->link;
    peer->next_in = 0;
    peer->inbound.clear();
    peer->ack_generation = 0, peer->ack_count = 0, peer->num_unacked = 0;
    retire(peer->star);
    if (options_.is_hub) members_changed();
  }
  confirm(*peer, *header);
  const Result<void> taken = take_signal(id, *peer, *header, bytes.subspan(sizeof *header));
  if (taken.has_error())
    return lose(id, {taken.error().code, fmt::format("peer {}: {}", peer->name, taken.error().message)});
  deliver_in_order(id, *peer);
}

Result<void> NcclExchange::take_signal(PeerId id, Peer& peer, const SignalHeader& header,
                                       std::span<const std::byte> body) {
  switch (static_cast<SignalKind>(header.kind)) {
    case SignalKind::frame:
    case SignalKind::resend:
      return take_frame(peer, header, body);
    case SignalKind::announce:
      return take_announcement(id, peer, header);
    case SignalKind::ack:
      return {};
    case SignalKind::offer:
      take_offer(id, peer, header, body);
      return {};
    case SignalKind::accepted:
    case SignalKind::joined:
    case SignalKind::live:
    case SignalKind::broken:
    case SignalKind::close:
      take_news(id, peer, header);
      return {};
  }
  return {};
}

Result<void> NcclExchange::take_frame(Peer& peer, const SignalHeader& header,
                                      std::span<const std::byte> body) {
  if (body.size() > options_.max_frame_bytes)
    return Status{Code::data_loss, fmt::format("a frame of {} bytes exceeds the limit of {}", body.size(),
                                               options_.max_frame_bytes)};
  const bool again = static_cast<SignalKind>(header.kind) == SignalKind::resend;
  const uint64_t next = peer.next_in + peer.inbound.size();
  if (again ? header.sequence >= next : header.sequence != next)
    return Status{Code::data_loss, fmt::format("frame {} where {} is due", header.sequence, next)};
  if (!again) peer.inbound.emplace_back();
  if (header.sequence < peer.next_in) return {};
  Inbound& inbound = peer.inbound[header.sequence - peer.next_in];
  if (inbound.arrived) return {};
  inbound = {.arrived = true, .bytes = body.size(), .data = body.data(), .signal = signals_->hold()};
  return {};
}

Result<void> NcclExchange::take_announcement(PeerId id, Peer& peer, const SignalHeader& header) {
  const uint64_t next = peer.next_in + peer.inbound.size();
  if (header.sequence != next)
    return Status{Code::data_loss, fmt::format("frame {} where {} is due", header.sequence, next)};
  if (header.bytes > options_.max_frame_bytes)
    return Status{Code::data_loss, fmt::format("a frame of {} bytes exceeds the limit of {}", header.bytes,
                                               options_.max_frame_bytes)};
  if (header.wire_bytes < header.bytes || header.wire_bytes > most_wire_bytes(options_.max_frame_bytes))
    return Status{Code::data_loss,
                  fmt::format("a frame of {} bytes that takes {} on the wire, {} at most", header.bytes,
                              header.wire_bytes, most_wire_bytes(options_.max_frame_bytes))};
  if (peer.inbound.size() >= kMaxUnconfirmedFrames)
    return Status{Code::data_loss, fmt::format("more than {} frames are announced", kMaxUnconfirmedFrames)};
  peer.inbound.push_back({.bytes = header.bytes});
  NcclStar* star = header.of_sender ? peer.star.get() : star_.get();
  const int rank = header.of_sender ? 0 : rank_of(id);
  const bool joined = star && star->generation() == header.generation &&
                      (star->state() == NcclStar::State::joined || star->state() == NcclStar::State::live);
  // Otherwise it is given up here, and its sender will hear of that and send the frame again.
  if (!joined || (rank == 0 && !header.of_sender)) return {};
  GH_ASSIGN(NcclMemory::Buffer frame, pinned_.take(header.bytes));
  std::vector<Transfer>& group = receiving_[star];
  for (const Transfer& other : group)
    if (other.rank == rank) {  // a group has one operation of each rank at most
      star->receive(std::exchange(group, {}));
      break;
    }
  if (peer.ack_generation != header.generation) {
    peer.ack_generation = header.generation;
    peer.ack_count = 0;
  }
  group.push_back({false, rank, header.bytes, header.wire_bytes, std::move(frame), header.sequence});
  return {};
}

void NcclExchange::start_receives() {
  for (auto& [star, group] : receiving_)
    if (!group.empty()) star->receive(std::exchange(group, {}));
  receiving_.clear();
}

void NcclExchange::take_received(PeerId id, Transfer transfer) {
  Peer* peer = find(id);
  if (!peer) return;
  ++peer->ack_count;
  if (++peer->num_unacked >= kConfirmEvery) send_signal(id, *peer, signal_of(SignalKind::ack));
  const uint64_t sequence = transfer.tag;
  if (sequence < peer->next_in || sequence - peer->next_in >= peer->inbound.size()) return;
  Inbound& inbound = peer->inbound[sequence - peer->next_in];
  if (inbound.arrived) return;  // sent again meanwhile
  ++counters_.received_over_nccl;
  inbound = {.arrived = true, .bytes = transfer.bytes, .data = transfer.frame.get(), .frame = transfer.frame};
  deliver_in_order(id, *peer);
}

void NcclExchange::deliver_in_order(PeerId id, Peer& peer) {
  while (!peer.inbound.empty() && peer.inbound.front().arrived) {
    ++counters_.received;
    ++peer.next_in;
    ready_.push_back({.peer = id, .frame = std::move(peer.inbound.front())});
    peer.inbound.pop_front();
  }
}

}  // namespace guildhall
