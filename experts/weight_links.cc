#include "experts/weight_links.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "proto/crc32c.h"

namespace guildhall {
namespace {

WeightType type_of(DType dtype) {
  return dtype == DType::f32 ? WeightType::f32 : dtype == DType::bf16 ? WeightType::bf16 : WeightType::e4m3;
}

}  // namespace

WeightLinks::WeightLinks(Exchange& exchange, Ops& ops, const ExpertTable& experts)
    : exchange_(exchange), experts_(experts), staged_(ops) {}

// ---- links

Result<bool> WeightLinks::attach_asker(const WorkerPeer& peer, std::function<void(const Status& why)> lost) {
  // One that greets anew may be here before its old link's end was noticed.
  if (Peer* const known = find(peer.exchange_address)) known->asker.reset();
  disconnect_idle();
  Peer* entry = find(peer.exchange_address);
  const bool is_new = entry == nullptr;
  if (is_new) {
    GH_ASSIGN(entry, connect(peer));
  }
  entry->asker = Asker{.generation = peer.generation, .lost = std::move(lost)};
  return is_new;
}

// A link that carried frames before the hello is over if the other end was made for that hello. One that did
// not may be that end's match: both workers asked each other at once.
Result<void> WeightLinks::attach_source(const WorkerPeer& peer, const SourceHello& hello,
                                        std::shared_ptr<WeightFetch> fetch) {
  Peer* entry = find(peer.exchange_address);
  if (!entry && !hello.is_new_there)
    return Status{Code::unavailable, fmt::format("peer {}: its link to this worker is over", peer.name)};
  const bool is_over = entry && hello.is_new_there && entry->heard_ns > 0 && entry->heard_ns < hello.sent_ns;
  std::optional<Asker> asker;
  if (is_over) {
    asker = std::move(entry->asker);
    entry->asker.reset(), entry->source.reset();
    disconnect_idle();
    entry = nullptr;
  }
  if (!entry) {
    GH_ASSIGN(entry, connect(peer));
    entry->asker = std::move(asker);
  }
  entry->source = Source{peer.generation, std::move(fetch)};
  return {};
}

WeightLinks::Peer* WeightLinks::find(const std::string& exchange_address) {
  const auto found = std::ranges::find_if(peers_, [&](const Peers::value_type& entry) {
    return entry.second.exchange_address == exchange_address;
  });
  return found == peers_.end() ? nullptr : &found->second;
}

Result<WeightLinks::Peer*> WeightLinks::connect(const WorkerPeer& peer) {
  GH_ASSIGN(const PeerId id, exchange_.connect(peer.name, peer.exchange_address));
  log_info("worker_linked", "peer={} transport=\"{}\"", peer.name, exchange_.describe(id));
  return &(peers_[id] = {.name = peer.name, .exchange_address = peer.exchange_address});
}

void WeightLinks::detach(uint64_t generation) {
  for (auto& [id, peer] : peers_) {
    if (peer.asker && peer.asker->generation == generation) peer.asker.reset();
    if (peer.source && peer.source->generation == generation) peer.source.reset();
  }
  disconnect_idle();
}

void WeightLinks::disconnect_idle() {
  std::erase_if(peers_, [&](const Peers::value_type& entry) {
    const bool idle = !entry.second.asker && !entry.second.source;
    if (idle) exchange_.disconnect(entry.first);
    return idle;
  });
}

bool WeightLinks::on_peer_lost(PeerId peer, const Status& why) {
  if (peers_.count(peer) == 0) return false;
  lose(peer, why);
  return true;
}

void WeightLinks::lose(PeerId id, const Status& why) {
  const Peer peer = std::move(peers_.extract(id).mapped());
  log_info("worker_link_ended", "peer={} reason=\"{}\"", peer.name, why.message);
  exchange_.disconnect(id);
  if (peer.asker) peer.asker->lost(why);
  if (peer.source) peer.source->fetch->end({why.code, fmt::format("peer {}: {}", peer.name, why.message)});
}

// ---- frames

void WeightLinks::ask(uint64_t generation, uint64_t step_id, const WeightsRequest& request) {
  const auto found = std::ranges::find_if(peers_, [&](const Peers::value_type& entry) {
    return entry.second.source && entry.second.source->generation == generation;
  });
  if (found == peers_.end()) return;
  const auto region = exchange_.acquire(found->first, kWeightsRequestBytes);
  if (region.has_error()) return found->second.source->fetch->on_failure(step_id, region.error());
  const Exchange::Outgoing frame{found->first, write_weights_request(generation, step_id, request, *region)};
  exchange_.post({&frame, 1});
}

void WeightLinks::on_frame(PeerId id, const FrameBytes& frame) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  if (found->second.heard_ns == 0) found->second.heard_ns = now_ns();
  if (const Result<void> taken = take(id, found->second, frame); taken.has_error()) lose(id, taken.error());
}

// The error ends the link. Frames of another generation are late: they say nothing about it.
Result<void> WeightLinks::take(PeerId id, Peer& peer, const FrameBytes& frame) {
  GH_ASSIGN(const FrameHeader header, decode_header(frame));
  const bool from_asker = peer.asker && header.generation == peer.asker->generation;
  const bool from_source = peer.source && header.generation == peer.source->generation;
  switch (static_cast<FrameKind>(header.kind)) {
    case FrameKind::weights_request: {
      GH_ASSIGN(const WeightsRequestView request, decode_weights_request(frame));
      if (from_asker) take_request(id, *peer.asker, request);
      return {};
    }
    case FrameKind::weights: {
      GH_ASSIGN(const WeightsView answer, decode_weights(frame));
      if (from_source) peer.source->fetch->on_chunk(header.step_id, answer.chunk);
      return {};
    }
    case FrameKind::failure: {
      GH_ASSIGN(const FailureView failure, decode_failure(frame));
      if (from_source) peer.source->fetch->on_failure(header.step_id, failure.why);
      return {};
    }
    default:
      return Status{Code::data_loss, fmt::format("frame refused: kind {} from a worker", header.kind)};
  }
}

void WeightLinks::take_request(PeerId id, Asker& asker, const WeightsRequestView& request) {
  if (request.header.step_id <= asker.last_id) return;  // came twice
  asker.last_id = request.header.step_id;
  if (asker.waiting) return refuse(id, request, {Code::resource_exhausted, "another request waits here"});
  asker.waiting = request;
  turns_.push_back(id);
}

bool WeightLinks::answer_one() {
  while (!turns_.empty()) {
    const PeerId id = turns_.front();
    turns_.pop_front();
    const auto found = peers_.find(id);
    if (found == peers_.end() || !found->second.asker || !found->second.asker->waiting) continue;
    Asker& asker = *found->second.asker;
    answer(id, asker, *std::exchange(asker.waiting, std::nullopt));
    return true;
  }
  return false;
}

// Chunks of an expert are asked for in order, so that the checksum of all so far goes with each.
void WeightLinks::answer(PeerId id, Asker& asker, const WeightsRequestView& asked) {
  const WeightsRequest& request = asked.request;
  const ExpertPtr weights = experts_.find(request.layer, request.expert);
  if (!weights)
    return refuse(
        id, asked,
        {Code::not_found, fmt::format("layer {} expert {} is not held here", request.layer, request.expert)});
  const auto total = static_cast<uint64_t>(weights->memory.bytes());
  const bool goes_on = asker.given.layer == request.layer && asker.given.expert == request.expert &&
                       asker.next_offset == request.offset;
  if (request.offset >= total || (request.offset > 0 && !goes_on))
    return refuse(id, asked,
                  {Code::invalid_argument,
                   fmt::format("offset {} is neither 0 nor where the last chunk ended", request.offset)});
  const auto size = static_cast<size_t>(std::min<uint64_t>(request.max_bytes, total - request.offset));
  const auto region = exchange_.acquire(id, weights_frame_bytes(size));
  if (region.has_error()) {  // it hears of a lost link, or waits for its deadline
    log_warn("reply_failed", "reason=\"{}\"", to_string(region.error()));
    return;
  }
  const std::span<const std::byte> bytes = at_host(*weights, request.offset, size);
  asker.crc32c = crc32c(bytes, request.offset == 0 ? 0 : asker.crc32c);
  asker.given = request;
  asker.next_offset = request.offset + size;
  const WeightsChunk chunk{.layer = request.layer,
                           .expert = request.expert,
                           .type = type_of(weights->view.gate_fh.dtype),
                           .offset = request.offset,
                           .total_bytes = total,
                           .crc32c = asker.crc32c,
                           .bytes = bytes};
  const Exchange::Outgoing frame{
      id, write_weights(asked.header.generation, asked.header.step_id, chunk, *region)};
  exchange_.post({&frame, 1});
}

// Valid until the next call.
std::span<const std::byte> WeightLinks::at_host(const ExpertWeights& weights, uint64_t offset, size_t bytes) {
  const View2<std::byte> there{weights.memory.data() + offset, 1, static_cast<int64_t>(bytes)};
  const View2<std::byte> here = staged_.download(there);
  staged_.wait("wait weights");
  return {here.data, bytes};
}

void WeightLinks::refuse(PeerId id, const WeightsRequestView& asked, const Status& why) {
  const auto region = exchange_.acquire(id, kMaxFailureFrameBytes);
  if (region.has_error()) return;
  const FrameFields fields{
      .generation = asked.header.generation, .step_id = asked.header.step_id, .layer = asked.header.layer};
  const Exchange::Outgoing frame{id, write_failure(fields, why, *region)};
  exchange_.post({&frame, 1});
}

}  // namespace guildhall
