// ucx_sends.cc: a frame's way out: into the peer's slot in place, into it by put, or as an active message.
#include <fmt/format.h>

#include <atomic>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
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
  OutboundSlots* slots = peer->outbound.get();
  const bool in_place = slots && slots->is_mapped() && slots->fits(bytes);
  FrameBuffer buffer;
  if (!in_place && !(buffer = pool_.take(bytes)))
    return Status{Code::resource_exhausted,
                  fmt::format("peer {}: no memory for a frame of {} bytes", peer->name, bytes)};
  Send* send = peer->acquired = take_send(id);
  send->in_place = in_place ? slots : nullptr;
  send->buffer = std::move(buffer);
  send->capacity = bytes;
  return std::span(in_place ? slots->mapped(slots->next()) : send->buffer.data(), bytes);
}

Result<std::byte*> UcxExchange::acquire_tail(PeerId id, size_t bytes) {
  Peer* peer = find(id);
  if (!peer || peer->lost)
    return Status{Code::peer_lost, fmt::format("peer {} is lost or disconnected",
                                               peer ? peer->name : fmt::format("id {}", id))};
  Send* send = peer->acquired;
  GH_CHECK(tails_ && send && !send->tail && bytes > 0);
  if (bytes > options_.max_frame_bytes - send->capacity)
    return Status{Code::invalid_argument,
                  fmt::format("peer {}: a frame of {} bytes exceeds the limit of {}", peer->name,
                              send->capacity + bytes, options_.max_frame_bytes)};
  GH_ASSIGN(send->tail, tails_->take(bytes));
  send->tail_bytes = bytes;
  return send->tail.get();
}

UcxExchange::Send* UcxExchange::take_send(PeerId id) {
  if (idle_sends_.empty()) {
    sends_.push_back(std::make_unique<Send>());
    idle_sends_.push_back(sends_.back().get());
  }
  Send* send = idle_sends_.back();
  idle_sends_.pop_back();
  *send = {.owner = this, .peer = id};
  return send;
}

// All payloads first, then one fence, then the tags, each with its frame's tail behind it.
void UcxExchange::post(std::span<const Outgoing> frames) {
  bool fence_due = false;
  for (const Outgoing& frame : frames) {
    Peer* peer = find(frame.peer);
    if (!peer || peer->lost) continue;  // its region went back when it was lost
    GH_CHECK(peer->acquired && frame.bytes <= peer->acquired->capacity);
    Send* send = std::exchange(peer->acquired, nullptr);
    if (send->in_place && send->in_place != peer->outbound.get()) {
      recycle(send);  // packed for a link that ended meanwhile
      continue;
    }
    posting_.push_back({send, frame.bytes});
    fence_due |= put(*peer, send, frame.bytes);
  }
  if (fence_due) ucp_worker_fence(worker_.get());
  for (const Posting& posting : posting_) {
    Peer* peer = find(posting.send->peer);
    if (!peer || peer->lost) {
      finish_one(posting.send, UCS_ERR_CANCELED);
      continue;
    }
    const bool in_slot = is_in_slot(posting.send->tag.kind);
    Send* tail = posting.send->tail ? take_tail(posting) : nullptr;
    peer->has_sent_frames = true;
    ++counters_.sent;
    counters_.sent_to_slots += in_slot;
    std::span<const std::byte> message;
    if (!in_slot) message = {posting.send->buffer.data(), posting.bytes};
    send_tag(*peer, posting.send, message);
    if (tail) send_tag(*peer, tail, {tail->tail.get(), tail->tail_bytes});
  }
  posting_.clear();
}

bool UcxExchange::put(Peer& peer, Send* send, size_t bytes) {
  OutboundSlots* slots = peer.outbound.get();
  send->tag = {.kind = send->tail ? TagKind::head : TagKind::frame};
  send->num_unfinished = 1;
  ++peer.num_in_flight;
  if (!send->in_place && (!slots || slots->is_mapped() || !slots->fits(bytes))) return false;
  const uint32_t slot = slots->next();
  slots->take();
  send->tag = {.kind = send->tail ? TagKind::slot_head : TagKind::slot_frame,
               .slot = static_cast<uint16_t>(slot),
               .slot_link = slots->link(),
               .slot_bytes = bytes};
  if (send->in_place) {
    std::atomic_thread_fence(std::memory_order_release);
    return false;
  }
  ++send->num_unfinished;
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.cb.send = on_sent;
  param.user_data = send;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  track(send, ucp_put_nbx(peer.endpoint, send->buffer.data(), bytes, slots->remote_address(slot),
                          slots->rkey(), &param));
  return true;
}

// The tail of a frame as a message of its own. Its head's send may be over, and used again, when this ends.
UcxExchange::Send* UcxExchange::take_tail(const Posting& head) {
  Send* send = take_send(head.send->peer);
  send->tail = std::move(head.send->tail);
  send->tail_bytes = head.send->tail_bytes;
  send->tag = {.kind = TagKind::tail, .slot_bytes = head.bytes};
  send->num_unfinished = 1;
  ++find(send->peer)->num_in_flight;
  return send;
}

// `data` goes along. A tail by rendezvous, so that its receiver says where to.
void UcxExchange::send_tag(Peer& peer, Send* send, std::span<const std::byte> data) {
  send->tag.instance = instance_;
  send->tag.sequence = peer.next_out++;
  send->tag.num_read = peer.inbound ? peer.inbound->num_read() : 0;
  send->tag.link = peer.link;
  send->tag.magic = kFrameMagic;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = on_sent;
  param.user_data = send;
  if (send->tag.kind == TagKind::tail) {  // whose memory it is UCX finds out
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_AM_SEND_FLAG_RNDV;
  } else {
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
    param.memory_type = UCS_MEMORY_TYPE_HOST;
  }
  track(send, ucp_am_send_nbx(peer.endpoint, kFrameAmId, &send->tag, sizeof send->tag,
                              data.empty() ? nullptr : data.data(), data.size(), &param));
}

// Only to peers that were heard of: UCX 1.13 aborts when an endpoint that is still finding its peer is closed
// with a message in its queue (openucx/ucx#8175 and, over shared memory, "remote_id").
void UcxExchange::offer_due_slots() {
  for (PeerId id : offers_due_)
    if (Peer* peer = find(id); peer && !peer->lost) offer_slots(*peer, id);
  offers_due_.clear();
}

// Lets the peer write frames into our memory.
void UcxExchange::offer_slots(Peer& peer, PeerId id) {
  if (options_.slots.num == 0 || !peer.slot_access.any()) return;
  auto slots = InboundSlots::create(worker_.context.get(), peer.slot_access, options_.slots);
  if (!slots) {
    log_warn("ucx_no_slots", "peer={} reason=\"{}\" effect=\"its frames come as messages\"", peer.name,
             slots.error().message);
    return;
  }
  peer.inbound = std::move(*slots);
  const std::string offer = peer.inbound->offer();
  Send* send = take_send(id);
  send->buffer = pool_.take(offer.size());
  if (!send->buffer) return recycle(send);
  std::memcpy(send->buffer.data(), offer.data(), offer.size());
  send->tag = {.kind = TagKind::slot_offer};
  send->num_unfinished = 1;
  ++peer.num_in_flight;
  send_tag(peer, send, {send->buffer.data(), offer.size()});
}

void UcxExchange::track(Send* send, void* request) {
  if (!UCS_PTR_IS_PTR(request)) finish_one(send, UCS_PTR_STATUS(request));
}

void UcxExchange::on_sent(void* request, ucs_status_t status, void* user_data) {
  Send* send = static_cast<Send*>(user_data);
  send->owner->finish_one(send, status);
  ucp_request_free(request);
}

void UcxExchange::finish_one(Send* send, ucs_status_t status) {
  if (send->status == UCS_OK) send->status = status;
  if (--send->num_unfinished > 0) return;
  const PeerId id = send->peer;
  const ucs_status_t first_error = send->status;
  recycle(send);
  Peer* peer = find(id);
  if (!peer) return;
  --peer->num_in_flight;
  if (first_error != UCS_OK)
    fail(id, {Code::peer_lost, fmt::format("peer {}: a frame could not be sent: {}", peer->name,
                                           ucs_status_string(first_error))});
}

void UcxExchange::recycle(Send* send) {
  pool_.give(std::move(send->buffer));
  send->tail.reset();
  send->peer = 0;
  idle_sends_.push_back(send);
}

}  // namespace guildhall
