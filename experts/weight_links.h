// weight_links.h: links to other workers on the data plane, by which experts' bytes go from one to the other.
// Two workers share one link, whichever asks: an asker is given chunks of the experts held here, one at a
// time, between dispatches; a source is asked on behalf of a WeightFetch. Owner: the serve thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "experts/expert_table.h"
#include "experts/weight_fetch.h"
#include "kernels/device_buffers.h"
#include "proto/weights_codec.h"
#include "transport/exchange.h"

namespace guildhall {

// Another worker, as a hello or its reply names it. Frames of a role carry the generation that the asking
// side's hello had.
struct WorkerPeer {
  std::string name, exchange_address;
  uint64_t generation = 0;
};

// What came of this worker's hello to a source: when it was sent, and whether the other end of the link was
// made for it.
struct SourceHello {
  int64_t sent_ns = 0;
  bool is_new_there = true;
};

class WeightLinks {
 public:
  // All are borrowed.
  WeightLinks(Exchange& exchange, Ops& ops, const ExpertTable& experts);

  // Whether this end of the link is new; the asker, who may still have its end of one that is over, is told.
  // `lost` is called when the link ended otherwise than by detach().
  Result<bool> attach_asker(const WorkerPeer& peer, std::function<void(const Status& why)> lost);
  // fetch->end() is called when the link ended otherwise than by detach().
  Result<void> attach_source(const WorkerPeer& peer, const SourceHello& hello,
                             std::shared_ptr<WeightFetch> fetch);
  void detach(uint64_t generation);  // in whichever role

  // Sends a request to the source of that generation, if it is there.
  void ask(uint64_t generation, uint64_t step_id, const WeightsRequest& request);
  // Answers the request that has waited longest. False: none waits.
  bool answer_one();

  // Of a peer that is none of these links: nothing.
  void on_frame(PeerId peer, const FrameBytes& frame);
  // False: it is none of these.
  bool on_peer_lost(PeerId peer, const Status& why);

 private:
  struct Asker {
    uint64_t generation = 0;
    std::function<void(const Status& why)> lost;
    uint64_t last_id = 0;                       // of its requests, which grow
    std::optional<WeightsRequestView> waiting;  // one at most
    // What it was given last, and the checksum of all up to there.
    WeightsRequest given;
    uint64_t next_offset = 0;
    uint32_t crc32c = 0;
  };
  struct Source {
    uint64_t generation = 0;
    std::shared_ptr<WeightFetch> fetch;
  };
  struct Peer {
    std::string name, exchange_address;
    int64_t heard_ns = 0;  // when the first frame came by this link; 0: none has
    std::optional<Asker> asker;
    std::optional<Source> source;
  };
  using Peers = std::unordered_map<PeerId, Peer>;

  Peer* find(const std::string& exchange_address);  // nullptr: there is no link
  Result<Peer*> connect(const WorkerPeer& peer);
  Result<void> take(PeerId id, Peer& peer, const FrameBytes& frame);
  void take_request(PeerId id, Asker& asker, const WeightsRequestView& request);
  void answer(PeerId id, Asker& asker, const WeightsRequestView& asked);
  void refuse(PeerId id, const WeightsRequestView& asked, const Status& why);
  std::span<const std::byte> at_host(const ExpertWeights& weights, uint64_t offset, size_t bytes);
  void lose(PeerId id, const Status& why);
  void disconnect_idle();

  Exchange& exchange_;
  const ExpertTable& experts_;
  Peers peers_;
  std::deque<PeerId> turns_;  // of askers whose request waits
  HostMatrix<std::byte> staged_;
};

}  // namespace guildhall
