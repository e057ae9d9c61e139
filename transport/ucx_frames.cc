// ucx_frames.cc: a frame's way out (acquire, post, completion) and in (active message, rendezvous, order).
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "transport/ucx_exchange.h"

namespace guildhall {

Result<std::span<std::byte>> UcxExchange::acquire(PeerId id, size_t bytes) {
  Peer* peer = find(id);
  if (!peer || peer->lost)
    return Status{Code::peer_lost, fmt::format("peer {} is lost or disconnected",
                                               peer ? peer->name : fmt::format("id {}", id))};
  if (bytes > options_.max_frame_bytes)
    return Status{Code::invalid_argument, fmt::format("peer {}: a frame of {} bytes exceeds the limit of {}",
                                                      peer->name, bytes, options_.max_frame_bytes)};
  if (peer->num_in_flight >= kMaxFramesInFlight)
    return Status{Code::resource_exhausted,
                  fmt::format("peer {}: {} frames are in flight already; poll, then try again", peer->name,
                              peer->num_in_flight)};
  GH_CHECK(!peer->acquired);
  FrameBuffer buffer = pool_.take(bytes);
  if (!buffer)
    return Status{Code::resource_exhausted,
                  fmt::format("peer {}: no memory for a frame of {} bytes", peer->name, bytes)};
  if (idle_sends_.empty()) {
    sends_.push_back(std::make_unique<Send>());
    idle_sends_.push_back(sends_.back().get());
  }
  Send* send = idle_sends_.back();
  idle_sends_.pop_back();
  *send = {.owner = this, .peer = id, .tag = {}, .buffer = std::move(buffer)};
  peer->acquired = send;
  return std::span(send->buffer.data(), bytes);
}

void UcxExchange::post(std::span<const Outgoing> frames) {
  for (const Outgoing& frame : frames) {
    Peer* peer = find(frame.peer);
    if (!peer || peer->lost) continue;  // its region went back when it was lost
    GH_CHECK(peer->acquired && frame.bytes <= peer->acquired->buffer.capacity());
    send(*peer, frame.bytes);
  }
}

void UcxExchange::send(Peer& peer, size_t bytes) {
  Send* send = std::exchange(peer.acquired, nullptr);
  send->tag = {.instance = instance_, .sequence = peer.next_out++, .link = peer.link, .magic = kFrameMagic};
  ++peer.num_in_flight;
  ++counters_.sent;
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = on_sent;
  param.user_data = send;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  void* request = ucp_am_send_nbx(peer.endpoint, kFrameAmId, &send->tag, sizeof send->tag,
                                  send->buffer.data(), bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) sent(send, UCS_PTR_STATUS(request));
}

void UcxExchange::on_sent(void* request, ucs_status_t status, void* user_data) {
  Send* send = static_cast<Send*>(user_data);
  send->owner->sent(send, status);
  ucp_request_free(request);
}

void UcxExchange::sent(Send* send, ucs_status_t status) {
  const PeerId id = send->peer;
  recycle(send);
  Peer* peer = find(id);
  if (!peer) return;
  --peer->num_in_flight;
  if (status != UCS_OK)
    fail(id, {Code::peer_lost,
              fmt::format("peer {}: a frame could not be sent: {}", peer->name, ucs_status_string(status))});
}

void UcxExchange::recycle(Send* send) {
  pool_.give(std::move(send->buffer));
  send->peer = 0;
  idle_sends_.push_back(send);
}

// UCS_OK: we are done with `data`. UCS_INPROGRESS: we hold it until ucp_am_data_release, or are receiving it.
ucs_status_t UcxExchange::on_active_message(void* self, const void* header, size_t header_bytes, void* data,
                                            size_t bytes, const ucp_am_recv_param_t* param) {
  auto& exchange = *static_cast<UcxExchange*>(self);
  if (exchange.shutting_down_) return UCS_OK;
  FrameTag tag{};
  if (header_bytes == sizeof tag) std::memcpy(&tag, header, sizeof tag);  // not aligned
  if (tag.magic != kFrameMagic || tag.instance == 0 || tag.link == 0) {
    ++exchange.counters_.malformed_dropped;
    return UCS_OK;
  }
  Arrival arrival{.sequence = tag.sequence,
                  .bytes = bytes,
                  .held = data,
                  .rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0};
  const LinkTag link{tag.instance, tag.link};
  if (const auto owner = exchange.links_.owner_of(link)) {
    if (owner->starts_link) exchange.start_order(owner->peer);
    return exchange.accept(owner->peer, arrival) ? UCS_INPROGRESS : UCS_OK;
  }
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
}

bool UcxExchange::accept(PeerId id, Arrival& arrival) {
  Peer* peer = find(id);
  if (!peer || peer->lost) return false;
  if (arrival.bytes > options_.max_frame_bytes) {
    ++counters_.oversize_refused;
    fail(id, {Code::peer_lost, fmt::format("peer {}: refused a frame of {} bytes; the limit is {}",
                                           peer->name, arrival.bytes, options_.max_frame_bytes)});
    return false;
  }
  if (arrival.sequence < peer->next_in || arrival.sequence - peer->next_in > kMaxEarlyFrames) {
    fail(id, {Code::peer_lost, fmt::format("peer {}: frame {} came where {} was due", peer->name,
                                           arrival.sequence, peer->next_in)});
    return false;
  }
  if (arrival.rendezvous) return start_receive(id, arrival);
  arrived(id, std::move(arrival));
  return true;
}

// The sender keeps the bytes until we have fetched them.
bool UcxExchange::start_receive(PeerId id, Arrival& arrival) {
  FrameBuffer buffer = pool_.take(arrival.bytes);
  if (!buffer) {
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
  arrival.buffer = std::move(buffer);
  *receive = {.owner = this, .peer = id, .arrival = std::move(arrival)};

  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                       UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv_am = on_received;
  param.user_data = receive;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  void* request = ucp_am_recv_data_nbx(worker_.get(), descriptor, receive->arrival.buffer.data(),
                                       receive->arrival.bytes, &param);
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
  if (!peer || peer->lost) return release(arrival);
  if (arrival.sequence != peer->next_in) {
    auto place =
        std::upper_bound(peer->early.begin(), peer->early.end(), arrival.sequence,
                         [](uint64_t sequence, const Arrival& other) { return sequence < other.sequence; });
    peer->early.insert(place, std::move(arrival));
    return;
  }
  auto deliver = [&](Arrival next) {
    ++peer->next_in;
    ++counters_.received;
    ready_.push_back({.peer = id, .lost = false, .arrival = std::move(next)});
  };
  deliver(std::move(arrival));
  auto next = peer->early.begin();
  for (; next != peer->early.end() && next->sequence == peer->next_in; ++next) deliver(std::move(*next));
  peer->early.erase(peer->early.begin(), next);
}

void UcxExchange::release(Arrival& arrival) {
  if (arrival.held) ucp_am_data_release(worker_.get(), std::exchange(arrival.held, nullptr));
  pool_.give(std::move(arrival.buffer));
}

}  // namespace guildhall
