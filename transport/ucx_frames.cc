// ucx_frames.cc: a frame's way in: its tag, its bytes (message, slot or rendezvous), its place in order.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "transport/ucx_exchange.h"

namespace guildhall {

// UCS_OK: we are done with `data`. UCS_INPROGRESS: we hold it until ucp_am_data_release, or are receiving it.
ucs_status_t UcxExchange::on_active_message(void* self, const void* header, size_t header_bytes, void* data,
                                            size_t bytes, const ucp_am_recv_param_t* param) {
  auto& exchange = *static_cast<UcxExchange*>(self);
  if (exchange.shutting_down_) return UCS_OK;
  FrameTag tag{};
  if (header_bytes == sizeof tag) std::memcpy(&tag, header, sizeof tag);  // not aligned
  if (tag.magic != kFrameMagic || tag.instance == 0 || tag.link == 0 || tag.kind > TagKind::tail) {
    ++exchange.counters_.malformed_dropped;
    return UCS_OK;
  }
  Arrival arrival{.kind = tag.kind,
                  .link = tag.link,
                  .sequence = tag.sequence,
                  .num_read = tag.num_read,
                  .bytes = bytes,
                  .head_bytes = tag.kind == TagKind::tail ? tag.slot_bytes : 0,
                  .rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0};
  const LinkTag link{tag.instance, tag.link};
  const auto owner = exchange.links_.owner_of(link);
  if (owner && owner->starts_link) exchange.start_order(owner->peer);
  if (is_in_slot(tag.kind)) {
    if (!owner)
      ++exchange.counters_.unknown_dropped;
    else if (exchange.find_in_slot(owner->peer, tag, arrival))
      exchange.accept(owner->peer, arrival);
    return UCS_OK;
  }
  arrival.held = data;
  if (owner) return exchange.accept(owner->peer, arrival) ? UCS_INPROGRESS : UCS_OK;
  if (exchange.links_.can_hold(link) && exchange.links_.hold(link, arrival)) return UCS_INPROGRESS;
  ++exchange.counters_.unknown_dropped;
  return UCS_OK;
}

// Each link counts its frames from 0.
void UcxExchange::start_order(PeerId id) {
  Peer& peer = peers_.at(id);
  peer.next_in = 0;
  for (Arrival& arrival : peer.early) release(arrival);
  peer.early.clear();
  peer.previous_outbound = std::move(peer.outbound);  // a region of it may be acquired
}

// False when the tag names what is no slot of ours: the link is lost. A frame in slots that are gone came
// late and counts as delivered.
bool UcxExchange::find_in_slot(PeerId id, const FrameTag& tag, Arrival& arrival) {
  Peer* peer = find(id);
  if (!peer || peer->lost) return false;
  if (tag.slot_link != peer->link) {
    ++counters_.stale_slots;
    arrival.bytes = 0;
    return true;
  }
  const auto frame =
      peer->inbound ? peer->inbound->frame(tag.slot, tag.slot_bytes) : std::span<const std::byte>();
  if (frame.data() == nullptr) {
    fail(id, {Code::peer_lost, fmt::format("peer {}: announced {} bytes in slot {}, which is none of ours",
                                           peer->name, tag.slot_bytes, tag.slot)});
    return false;
  }
  arrival.slot = frame.data();
  arrival.slot_idx = tag.slot;
  arrival.slots = peer->inbound;
  arrival.bytes = frame.size();
  return true;
}

bool UcxExchange::accept(PeerId id, Arrival& arrival) {
  Peer* peer = find(id);
  if (!peer || peer->lost) return false;
  const size_t limit = options_.max_frame_bytes;
  if (arrival.bytes > limit || arrival.head_bytes > limit - arrival.bytes) {
    ++counters_.oversize_refused;
    fail(id, {Code::peer_lost, fmt::format("peer {}: refused a frame of {} bytes; the limit is {}",
                                           peer->name, arrival.bytes + arrival.head_bytes, limit)});
    return false;
  }
  if (arrival.sequence < peer->next_in || arrival.sequence - peer->next_in > kMaxEarlyFrames) {
    fail(id, {Code::peer_lost, fmt::format("peer {}: frame {} came where {} was due", peer->name,
                                           arrival.sequence, peer->next_in)});
    return false;
  }
  if (arrival.rendezvous) return start_receive(id, arrival);
  if (arrival.kind == TagKind::tail) {
    fail(id,
         {Code::peer_lost, fmt::format("peer {}: a tail came eagerly, which is never sent so", peer->name)});
    return false;
  }
  arrived(id, std::move(arrival));
  return true;
}

// Where what is still at its sender goes; nullptr where there is no memory. A tail goes to the device, or,
// where there is none or it is full, behind the place of its head.
std::byte* UcxExchange::make_room(Arrival& arrival) {
  if (arrival.kind == TagKind::tail && tails_) {
    if (Result<TailBuffer> tail = tails_->take(arrival.bytes)) {
      arrival.tail = std::move(*tail);
      arrival.tail_bytes = arrival.bytes;
      return arrival.tail.get();
    }
  }
  arrival.buffer = pool_.take(arrival.head_bytes + arrival.bytes);
  return arrival.buffer ? arrival.buffer.data() + arrival.head_bytes : nullptr;
}

// The sender keeps the bytes until we have fetched them.
bool UcxExchange::start_receive(PeerId id, Arrival& arrival) {
  std::byte* room = make_room(arrival);
  if (!room) {
    fail(id, {Code::resource_exhausted,
              fmt::format("peer {}: no memory for its frame of {} bytes", find(id)->name, arrival.bytes)});
    return false;
  }
  if (idle_receives_.empty()) {
    receives_.push_back(std::make_unique<Receive>());
    idle_receives_.push_back(receives_.back().get());
  }
  Receive* receive = idle_receives_.back();
  idle_receives_.pop_back();
  void* descriptor = std::exchange(arrival.held, nullptr);
  *receive = {.owner = this, .peer = id, .arrival = std::move(arrival)};

  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv_am = on_received;
  param.user_data = receive;
  if (!receive->arrival.tail) {  // UCX finds out by itself what a device's is
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
  }
  void* request = ucp_am_recv_data_nbx(worker_.get(), descriptor, room, receive->arrival.bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) received(receive, UCS_PTR_STATUS(request));
  return true;
}

void UcxExchange::on_received(void* request, ucs_status_t status, size_t, void* user_data) {
  Receive* receive = static_cast<Receive*>(user_data);
  receive->owner->received(receive, status);
  ucp_request_free(request);
}

void UcxExchange::received(Receive* receive, ucs_status_t status) {
  const PeerId id = receive->peer;
  Arrival arrival = std::move(receive->arrival);
  idle_receives_.push_back(receive);
  Peer* peer = find(id);
  if (peer && status == UCS_OK) return arrived(id, std::move(arrival));
  release(arrival);
  if (peer)
    fail(id, {Code::peer_lost, fmt::format("peer {}: a frame could not be fetched: {}", peer->name,
                                           ucs_status_string(status))});
}

// Puts the frame in its place: rendezvous frames come after eager ones that were sent later.
void UcxExchange::arrived(PeerId id, Arrival arrival) {
  Peer* peer = find(id);
  if (!peer || peer->lost) return discard(std::move(arrival));
  if (arrival.sequence != peer->next_in) {
    auto place =
        std::upper_bound(peer->early.begin(), peer->early.end(), arrival.sequence,
                         [](uint64_t sequence, const Arrival& other) { return sequence < other.sequence; });
    peer->early.insert(place, std::move(arrival));
    return;
  }
  deliver(id, *peer, std::move(arrival));
  while (!peer->early.empty() && peer->early.front().sequence == peer->next_in) {
    Arrival next = std::move(peer->early.front());
    peer->early.erase(peer->early.begin());
    deliver(id, *peer, std::move(next));  // may fail the peer, which empties `early`
  }
}

void UcxExchange::deliver(PeerId id, Peer& peer, Arrival arrival) {
  ++peer.next_in;
  if (std::exchange(peer.offer_due, false)) offers_due_.push_back(id);
  if (peer.outbound && !peer.outbound->set_freed(arrival.num_read)) {
    fail(id, {Code::peer_lost,
              fmt::format("peer {}: says it read {} slots, which cannot be", peer.name, arrival.num_read)});
    return discard(std::move(arrival));
  }
  if (arrival.kind == TagKind::slot_offer) {
    take_offer(id, peer, arrival);
    return discard(std::move(arrival));
  }
  if (peer.head.has_value() != (arrival.kind == TagKind::tail)) {
    fail(id,
         {Code::peer_lost, fmt::format("peer {}: {}", peer.name,
                                       peer.head ? "a frame where a tail was due" : "a tail of no frame")});
    return discard(std::move(arrival));
  }
  if (is_head(arrival.kind)) {
    peer.head = std::move(arrival);
    return;
  }
  if (arrival.kind == TagKind::tail) return join_tail(id, peer, std::move(arrival));
  hand_over(id, std::move(arrival));
}

void UcxExchange::join_tail(PeerId id, Peer& peer, Arrival tail) {
  Arrival head = *std::exchange(peer.head, std::nullopt);
  if (is_late(head)) return discard(std::move(tail));
  if (head.bytes != tail.head_bytes) {
    fail(id, {Code::peer_lost, fmt::format("peer {}: a tail of a frame of {} bytes behind {}", peer.name,
                                           tail.head_bytes, head.bytes)});
    discard(std::move(head));
    return discard(std::move(tail));
  }
  if (tail.tail) {
    head.tail = std::move(tail.tail);
    head.tail_bytes = tail.tail_bytes;
    return hand_over(id, std::move(head));
  }
  if (head.bytes > 0) std::memcpy(tail.buffer.data(), head.data(), head.bytes);
  tail.bytes += head.bytes;
  discard(std::move(head));
  hand_over(id, std::move(tail));
}

void UcxExchange::hand_over(PeerId id, Arrival frame) {
  if (is_late(frame)) return;
  ++counters_.received;
  ready_.push_back({.peer = id, .lost = false, .arrival = std::move(frame)});
}

void UcxExchange::take_offer(PeerId id, Peer& peer, const Arrival& offer) {
  const std::string_view bytes(reinterpret_cast<const char*>(offer.data()), offer.bytes);
  auto slots = OutboundSlots::accept(peer.endpoint, peer.slot_access, bytes, offer.link);
  if (!slots && slots.error().code == Code::data_loss)
    return fail(id, {Code::peer_lost, fmt::format("peer {}: {}", peer.name, slots.error().message)});
  if (slots) peer.outbound = std::move(*slots);
  log_info("ucx_slots", "peer={} frames=\"{}\"", peer.name,
           slots ? peer.outbound->describe() : "as messages: " + slots.error().message);
}

// Releases it after the next poll(): UCX takes no message back while its own callback hands it over.
void UcxExchange::discard(Arrival arrival) {
  ready_.push_back({.peer = kNoPeer, .lost = false, .arrival = std::move(arrival)});
}

void UcxExchange::release(Arrival& arrival) {
  if (arrival.held) ucp_am_data_release(worker_.get(), std::exchange(arrival.held, nullptr));
  pool_.give(std::move(arrival.buffer));
  arrival.tail.reset();
  if (auto slots = std::exchange(arrival.slots, nullptr)) slots->set_read(arrival.slot_idx);
}

}  // namespace guildhall
