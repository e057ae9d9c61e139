// nccl_hub.cc: generations of communicators: a hub's offers, what members make of them, and how both give up.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/units.h"
#include "transport/nccl_exchange.h"

namespace guildhall {
namespace {

SignalHeader news(SignalKind kind, uint32_t generation, bool of_sender) {
  return {.kind = static_cast<uint16_t>(kind), .generation = generation, .of_sender = of_sender};
}

}  // namespace

// ---- both

void NcclExchange::retire(std::unique_ptr<NcclStar>& star) {
  if (!star) return;
  sending_.erase(star.get()), receiving_.erase(star.get());
  star.reset();
}

void NcclExchange::revoke(NcclStar& star) {
  sending_.erase(&star), receiving_.erase(&star);
  star.revoke();
}

void NcclExchange::progress_stars() {
  const auto take = [this](NcclStar& star, const auto& peer_of_rank) {
    sent_.clear(), received_.clear();
    Result<void> went = star.progress(sent_, received_);
    for (Transfer& transfer : received_) {
      const int rank = transfer.rank;
      take_received(peer_of_rank(rank), std::move(transfer));
    }
    sent_.clear(), received_.clear();
    return went;
  };
  if (star_) {
    const uint32_t generation = star_->generation();
    const Result<void> went =
        take(*star_, [this](int rank) {  // a member that is lost by this ends the generation
          const auto r = static_cast<size_t>(rank);
          return r < members_.size() ? members_[r] : PeerId{0};
        });
    if (went.has_error() && star_ && star_->generation() == generation) {
      ++counters_.given_up;
      by_shrinking_ = false;
      close_generation(went.error());
    }
  }
  for (auto& [id, peer] : peers_) {
    if (!peer.star || peer.star->state() == NcclStar::State::over) continue;
    const bool was_joining = peer.star->state() == NcclStar::State::joining;
    const Result<void> went = take(*peer.star, [id = id](int) { return id; });
    if (went.has_error()) {
      give_up(id, peer, went.error());
    } else if (peer.star && was_joining && peer.star->state() == NcclStar::State::joined) {
      send_signal(id, peer, news(SignalKind::joined, peer.star->generation(), false));
    }
  }
}

// ---- a member

void NcclExchange::take_offer(PeerId id, Peer& peer, const SignalHeader& header,
                              std::span<const std::byte> body) {
  const Result<CommOffer> offer = decode_offer(body);
  if (offer.has_error())
    return lose(id, {offer.error().code, fmt::format("peer {}: {}", peer.name, offer.error().message)});
  std::unique_ptr<NcclStar> parent;
  if (offer->parent_generation > 0) {
    if (peer.star && peer.star->generation() == offer->parent_generation &&
        peer.star->state() == NcclStar::State::over)
      parent = std::move(peer.star);
    else
      return send_signal(id, peer, news(SignalKind::broken, header.generation, false));
  }
  retire(peer.star);
  auto star =
      NcclStar::join(header.generation, *offer, device_, options_.deadline, graphs_, std::move(parent));
  if (star.has_error()) {
    log_warn("nccl_join_failed", "hub={} generation={} reason=\"{}\"", peer.name, header.generation,
             star.error().message);
    return send_signal(id, peer, news(SignalKind::broken, header.generation, false));
  }
  peer.star = *std::move(star);
  send_signal(id, peer, news(SignalKind::accepted, header.generation, false));
}

void NcclExchange::give_up(PeerId hub, Peer& peer, const Status& why) {
  if (!peer.star) return;
  ++counters_.given_up;
  log_warn("nccl_given_up", "hub={} generation={} reason=\"{}\"", peer.name, peer.star->generation(),
           why.message);
  const uint32_t generation = peer.star->generation();
  revoke(*peer.star);
  send_signal(hub, peer, news(SignalKind::broken, generation, false));
  if (!options_.is_hub) send_again(hub, peer);
}

void NcclExchange::take_news(PeerId id, Peer& peer, const SignalHeader& header) {
  const auto kind = static_cast<SignalKind>(header.kind);
  NcclStar* star = header.of_sender ? peer.star.get() : star_.get();
  if (!star || star->generation() != header.generation || star->state() == NcclStar::State::over) return;
  if (kind == SignalKind::live && header.of_sender && star->state() == NcclStar::State::joined) {
    star->set_live();
    log_info("nccl_joined", "hub={} generation={} ranks={}", peer.name, star->generation(),
             star->num_ranks());
  } else if (kind == SignalKind::close && header.of_sender) {
    revoke(*star);
    if (!options_.is_hub) send_again(id, peer);
  } else if (kind == SignalKind::accepted && !header.of_sender) {
    accepted_.insert(id);
  } else if (kind == SignalKind::joined && !header.of_sender) {
    joined_.insert(id);
  } else if (kind == SignalKind::broken && !header.of_sender) {
    by_shrinking_ = false;
    close_generation({Code::unavailable, fmt::format("peer {} gave it up", peer.name)});
  }
}

// ---- the hub

int NcclExchange::rank_of(PeerId id) const {
  const auto found = std::find(members_.begin() + (members_.empty() ? 0 : 1), members_.end(), id);
  return found == members_.end() ? 0 : static_cast<int>(found - members_.begin());
}

void NcclExchange::members_changed() {
  stale_ = true;
  changed_at_ = Clock::now();
}

void NcclExchange::tell_members(SignalKind kind) {
  for (size_t rank = 1; rank < members_.size(); ++rank)
    if (Peer* peer = find(members_[rank]))
      send_signal(members_[rank], *peer, news(kind, star_->generation(), true));
}

void NcclExchange::manage_generations() {
  const auto now = Clock::now();
  if (star_ && star_->state() == NcclStar::State::joined && joined_.size() + 1 == members_.size()) {
    star_->set_live();
    ++counters_.generations_live;
    counters_.shrunk += by_shrinking_;
    log_info("nccl_live", "generation={} ranks={} shrunk={}", star_->generation(), members_.size(),
             by_shrinking_);
    tell_members(SignalKind::live);
  }
  const bool live = star_ && star_->state() == NcclStar::State::live;
  if (star_ && !live && now > join_by_) {
    // NCCL lets nobody in before all are there; the one to blame is who did not even answer.
    for (size_t rank = 1; rank < members_.size(); ++rank)
      if (Peer* peer = find(members_[rank]); peer && !accepted_.contains(members_[rank]))
        peer->benched_until = now + options_.join_deadline;
    by_shrinking_ = false;
    close_generation({Code::deadline_exceeded,
                      fmt::format("not all joined within {}", format_duration(options_.join_deadline))});
  }
  for (auto& [id, peer] : peers_)
    if (peer.benched_until != Clock::time_point{} && now > peer.benched_until) {
      peer.benched_until = {};
      members_changed();
    }
  if (stale_ && now - changed_at_ >= options_.settle) begin_generation();
}

void NcclExchange::begin_generation() {
  stale_ = false;
  std::vector<PeerId> members = {0};
  for (const auto& [id, peer] : peers_)
    if (!peer.lost && peer.in_link > 0 && peer.benched_until == Clock::time_point{}) members.push_back(id);
  std::sort(members.begin() + 1, members.end());
  if (star_ && members == members_) return;  // it came and went
  if (star_) {
    close_generation({Code::unavailable, "others are there now"});
    stale_ = false;
  }
  const bool fewer =
      ended_star_ && members.size() < ended_members_.size() &&
      std::includes(ended_members_.begin(), ended_members_.end(), members.begin(), members.end());
  std::unique_ptr<NcclStar> parent = std::move(ended_star_);
  if (members.size() < 2 || !fewer) retire(parent);
  if (members.size() < 2) return;

  CommOffer offer{.num_ranks = static_cast<uint32_t>(members.size())};
  if (parent) {
    offer.parent_generation = parent->generation();
    for (uint32_t rank = 1; rank < ended_members_.size(); ++rank)
      if (!std::binary_search(members.begin(), members.end(), ended_members_[rank]))
        offer.excluded.push_back(rank);
  } else {
    const Result<UniqueIdBytes> out = make_unique_id(), back = make_unique_id();
    if (out.has_error() || back.has_error()) {
      log_warn("nccl_join_failed", "reason=\"{}\"", (out.has_error() ? out : back).error().message);
      return members_changed();
    }
    offer.out = *out, offer.back = *back;
  }
  by_shrinking_ = parent != nullptr;
  ++counters_.generations;
  members_ = std::move(members);
  accepted_.clear(), joined_.clear();
  join_by_ = Clock::now() + options_.join_deadline;
  const uint32_t generation = ++last_generation_;
  auto star = NcclStar::join(generation, offer, device_, options_.deadline, graphs_, std::move(parent));
  if (star.has_error()) {
    log_warn("nccl_join_failed", "generation={} reason=\"{}\"", generation, star.error().message);
    return members_changed();
  }
  star_ = *std::move(star);
  for (uint32_t rank = 1; rank < members_.size(); ++rank) {
    Peer* peer = find(members_[rank]);
    if (!peer || !star_) continue;  // lost as it was told
    offer.rank = rank;
    const std::string body = encode_offer(offer);
    send_signal(members_[rank], *peer, news(SignalKind::offer, generation, true),
                std::as_bytes(std::span(body)));
  }
}

void NcclExchange::close_generation(const Status& why) {
  log_info("nccl_closed", "generation={} reason=\"{}\"", star_->generation(), why.message);
  const bool was_live = star_->state() == NcclStar::State::live;
  std::unique_ptr<NcclStar> closed = std::move(star_);
  revoke(*closed);
  const uint32_t generation = closed->generation();
  retire(ended_star_);
  ended_members_ = std::exchange(members_, {});
  if (was_live) ended_star_ = std::move(closed);
  members_changed();
  for (size_t rank = 1; rank < ended_members_.size(); ++rank) {
    Peer* peer = find(ended_members_[rank]);
    if (!peer) continue;
    send_signal(ended_members_[rank], *peer, news(SignalKind::close, generation, true));
    send_again(ended_members_[rank], *peer);
  }
}

}  // namespace guildhall
