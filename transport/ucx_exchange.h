// ucx_exchange.h: the data plane over UCX active messages: RDMA, shared memory or TCP, whichever UCX finds.
//
// Each frame is one active message; UCX sends small ones eagerly and large ones by rendezvous straight into a
// pooled buffer. A header names the sender, its link and the frame's number on it: rendezvous frames complete
// out of order, so the receiver puts them back. Callbacks of UCX only queue; handlers run from poll().
//
// Thread: one owner, but for wake() and local_address(). Files: ucx_exchange.cc (peers), ucx_frames.cc
// (frames).
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "transport/exchange.h"
#include "transport/frame_pool.h"
#include "transport/inbound_links.h"
#include "transport/ucx_address.h"
#include "transport/ucx_options.h"
#include "transport/ucx_waiter.h"
#include "transport/ucx_worker.h"

namespace guildhall {

// Frames of one peer posted and not yet through; beyond it acquire() says resource_exhausted.
inline constexpr size_t kMaxFramesInFlight = 1024;
// Frames of one peer that arrived before an earlier one did; more means that one is never coming.
inline constexpr size_t kMaxEarlyFrames = 1024;

class UcxExchange final : public Exchange {
 public:
  static Result<std::unique_ptr<UcxExchange>> open(const UcxOptions& options);
  ~UcxExchange() override;

  std::string local_address() const override { return local_address_; }
  Result<PeerId> connect(std::string_view name, std::string_view address) override;
  void disconnect(PeerId peer) override;
  Result<std::span<std::byte>> acquire(PeerId peer, size_t bytes) override;
  void post(std::span<const Outgoing> frames) override;
  size_t poll(ExchangeHandler& handler) override;
  void wait(std::chrono::nanoseconds timeout) override;
  void wake() override { waiter_.wake(); }
  std::string describe(PeerId peer) const override;

  struct Counters {
    uint64_t sent = 0, received = 0;
    uint64_t unknown_dropped = 0;    // from an end that is disconnected, or sent too much before its connect
    uint64_t malformed_dropped = 0;  // not our header
    uint64_t oversize_refused = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  // In front of every frame, as the active message's header. Little-endian.
  struct FrameTag {
    uint64_t instance;  //  0  the sender's
    uint64_t sequence;  //  8  of the frame on its link, from 0
    uint32_t link;      // 16  counts the sender's connects
    uint32_t magic;     // 20  kFrameMagic, else dropped
  };
  static_assert(sizeof(FrameTag) == 24);
  static constexpr uint32_t kFrameMagic = 0x31464847;  // "GHF1"
  static constexpr unsigned kFrameAmId = 1;

  struct Send {
    UcxExchange* owner;
    PeerId peer;   // 0: idle
    FrameTag tag;  // UCX reads it until the send completes
    FrameBuffer buffer;
  };

  // A frame's bytes: in memory of UCX that we hold, in a buffer of ours, or still at the sender (rendezvous).
  struct Arrival {
    uint64_t sequence = 0;
    size_t bytes = 0;
    void* held = nullptr;  // UCX's; given back by ucp_am_data_release
    bool rendezvous = false;
    FrameBuffer buffer;
  };
  struct Receive {
    UcxExchange* owner;
    PeerId peer;
    Arrival arrival;
  };

  struct Peer {
    std::string name;
    uint64_t instance = 0;
    uint32_t link = 0;  // ours to it
    ucp_ep_h endpoint = nullptr;
    bool reports_errors = true;  // endpoint was made with peer error handling
    bool lost = false;
    uint64_t next_out = 0, next_in = 0;
    size_t num_in_flight = 0;
    Send* acquired = nullptr;
    std::vector<Arrival> early;  // by sequence
  };
  struct Closing {
    PeerId peer;
    ucp_ep_h endpoint;
    bool reports_errors;
    bool flushing;            // else closing
    void* request = nullptr;  // of the flush, then of the close
    std::chrono::steady_clock::time_point deadline;
  };
  struct Ready {
    PeerId peer;
    bool lost;
    Arrival arrival;
    Status why;
  };

  UcxExchange(const UcxOptions& options, UcxWorker worker, UcxWaiter waiter, UcxAddress address);

  // Peers (ucx_exchange.cc).
  Peer* find(PeerId id);
  Result<ucp_ep_h> make_endpoint(const Peer& peer, const std::string& worker_address, bool report_errors);
  void fail(PeerId id, Status why);  // once; reported by poll()
  void start_close(PeerId id, Peer& peer, bool flush);
  void progress_closing();
  bool advance(Closing& closing);  // true: done
  void abandon(Peer& peer);        // its acquired and early frames
  std::chrono::nanoseconds longest_sleep() const;
  static void on_endpoint_error(void* self, ucp_ep_h endpoint, ucs_status_t status);

  // Frames (ucx_frames.cc).
  static ucs_status_t on_active_message(void* self, const void* header, size_t header_bytes, void* data,
                                        size_t bytes, const ucp_am_recv_param_t* param);
  static void on_sent(void* request, ucs_status_t status, void* send);
  static void on_received(void* request, ucs_status_t status, size_t bytes, void* receive);
  void send(Peer& peer, size_t bytes);
  void sent(Send* send, ucs_status_t status);
  void recycle(Send* send);
  bool accept(PeerId id, Arrival& arrival);  // false: refused, and still the caller's
  void start_order(PeerId id);
  bool start_receive(PeerId id, Arrival& arrival);
  void received(Receive* receive, ucs_status_t status);
  void arrived(PeerId id, Arrival arrival);
  void release(Arrival& arrival);

  const UcxOptions options_;
  const std::string local_address_;
  const uint64_t instance_;
  const uint64_t network_namespace_;

  // Outlive the worker, which may touch them until it is destroyed.
  FramePool pool_;
  std::vector<std::unique_ptr<Send>> sends_;
  std::vector<Send*> idle_sends_;
  std::vector<std::unique_ptr<Receive>> receives_;
  std::vector<Receive*> idle_receives_;

  UcxWorker worker_;
  UcxWaiter waiter_;
  std::unordered_map<PeerId, Peer> peers_;
  std::vector<Closing> closing_;
  InboundLinks<Arrival> links_;
  std::vector<Ready> ready_;       // for the next poll()
  std::vector<Ready> delivering_;  // by the last poll(): what they hold is lent until the next
  uint32_t last_link_ = 0;
  bool shutting_down_ = false;
  bool cannot_be_woken_ = false;  // some peer's frames come without an event: see longest_sleep()
  Counters counters_;
};

}  // namespace guildhall
