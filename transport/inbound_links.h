// inbound_links.h: whose frame is this? Maps what a frame says of its sender to the peer that connect()
// named, holds frames that overtook their connect(), and refuses those of links that are over.
//
// A sender is an instance (random, one per exchange) and a link (counts up each time it connects to us), so
// that frames of a connection from before a reconnect cannot pass for the new one's. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "transport/exchange.h"

namespace guildhall {

struct LinkTag {
  uint64_t instance;
  uint32_t link;  // >= 1
};

template <class Frame>
class InboundLinks {
 public:
  struct Owner {
    PeerId peer;
    bool starts_link;  // the first frame of the link now taken for the peer's
  };

  // The peer this frame is from; none when it is to be held or dropped.
  std::optional<Owner> owner_of(LinkTag tag) {
    auto found = senders_.find(tag.instance);
    if (found == senders_.end() || !found->second.peer) return std::nullopt;
    Sender& sender = found->second;
    const bool first = sender.link == 0 && tag.link > sender.retired_link;
    const bool corrects = sender.link != 0 && tag.link > sender.link && sender.num_unheard > 0;
    if (corrects) --sender.num_unheard;  // what was taken for this link was the end of one before
    if (first || corrects) sender.link = tag.link;
    if (sender.link != tag.link) return std::nullopt;
    return Owner{sender.peer, first || corrects};
  }

  // True when a connect() to come may still claim it.
  bool can_hold(LinkTag tag) const {
    auto found = senders_.find(tag.instance);
    if (found == senders_.end()) return tag.link != 0 && num_waiting_ < kMaxUnclaimedFrames;
    const Sender& sender = found->second;
    return tag.link > sender.retired_link && tag.link > sender.link && !sender.overrun;
  }

  // False, leaving `frame` alone, when the sender has used up what it may send unclaimed: it is then refused
  // for good. Precondition: can_hold(tag).
  bool hold(LinkTag tag, Frame& frame) {
    forget_idle_senders();
    Sender& sender = senders_[tag.instance];
    if (sender.held.size() >= kMaxUnclaimedFrames) {
      sender.overrun = true;
      return false;
    }
    if (sender.held.empty()) ++num_waiting_;
    sender.held.emplace_back(tag.link, std::move(frame));
    return true;
  }

  struct Claimed {
    std::vector<Frame> frames;  // of the newest link, in order of arrival
    std::vector<Frame> stale;   // of links before it
  };

  // `peer` is now the name of that instance.
  Result<Claimed> claim(uint64_t instance, PeerId peer) {
    forget_idle_senders();
    Sender& sender = senders_[instance];
    if (sender.peer) return Status{Code::invalid_argument, "already connected; disconnect it first"};
    Claimed claimed;
    uint32_t newest = 0;
    for (auto& [link, frame] : sender.held) newest = link > newest ? link : newest;
    for (auto& [link, frame] : sender.held)
      (link == newest && !sender.overrun ? claimed.frames : claimed.stale).push_back(std::move(frame));
    if (!sender.held.empty()) --num_waiting_;
    sender.held.clear();
    sender.lost_frames = std::exchange(sender.overrun, false);
    sender.peer = peer;
    sender.link = newest;
    return claimed;
  }

  // The claimed instance had sent more than may be held, so its first frames are gone.
  bool lost_frames(uint64_t instance) const { return senders_.at(instance).lost_frames; }

  // The peer is disconnected or lost: its link's frames are refused from here on.
  void retire(uint64_t instance) {
    Sender& sender = senders_[instance];
    if (sender.peer && sender.link == 0) ++sender.num_unheard;
    sender.retired_link = sender.link > sender.retired_link ? sender.link : sender.retired_link;
    sender.peer = 0;
    sender.link = 0;
    sender.lost_frames = false;
  }

  // Everything held, at the end.
  std::vector<Frame> release_all() {
    std::vector<Frame> frames;
    for (auto& [instance, sender] : senders_)
      for (auto& [link, frame] : sender.held) frames.push_back(std::move(frame));
    senders_.clear();
    num_waiting_ = 0;
    return frames;
  }

 private:
  struct Sender {
    PeerId peer = 0;
    uint32_t link = 0;          // the peer's; 0 until its first frame
    uint32_t retired_link = 0;  // newest that is over
    uint32_t num_unheard = 0;   // links that were over before their first frame came: it may still come
    bool overrun = false;
    bool lost_frames = false;
    std::vector<std::pair<uint32_t, Frame>> held;
  };

  // Bounds what strangers can make us remember; forgetting a retired sender only re-admits it to being held.
  static constexpr size_t kMaxSenders = 4096;
  void forget_idle_senders() {
    if (senders_.size() < kMaxSenders) return;
    std::erase_if(senders_,
                  [](const auto& entry) { return !entry.second.peer && entry.second.held.empty(); });
  }

  std::unordered_map<uint64_t, Sender> senders_;
  size_t num_waiting_ = 0;  // senders with frames held
};

}  // namespace guildhall
