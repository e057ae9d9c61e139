// ucx_exchange.h: the data plane over UCX: RDMA, shared memory or TCP, whichever UCX finds.
//
// A frame goes one of three ways, chosen by what the endpoint has: packed straight into the peer's slot where
// its memory is mapped here (shared memory), put into the slot where puts are the wire's own (RDMA), or as an
// active message (tcp, and whatever does not fit a slot), which UCX sends eagerly or by rendezvous into a
// pooled buffer. Each frame is announced by an active message whose header, the tag, names the sender, its
// link and the frame's number on it: frames complete out of order, so the receiver puts them back. Callbacks
// of UCX only queue; handlers run from poll().
//
// Thread: one owner, but for wake() and local_address(). Files: ucx_exchange.cc (peers), ucx_sends.cc (a
// frame's way out), ucx_frames.cc (its way in), ucx_slots.cc (the memory that peers write).
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "transport/exchange.h"
#include "transport/frame_pool.h"
#include "transport/held_frames.h"
#include "transport/inbound_links.h"
#include "transport/tail_pool.h"
#include "transport/ucx_address.h"
#include "transport/ucx_options.h"
#include "transport/ucx_slots.h"
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
  FrameHold hold() override;
  bool has_tails() const override { return tails_ != nullptr; }
  bool sends_tail(PeerId, size_t bytes) const override { return tails_ && tails_->wants(bytes); }
  Result<std::byte*> acquire_tail(PeerId peer, size_t bytes) override;
  std::span<const std::byte> tail() const override;
  std::string describe(PeerId peer) const override;

  struct Counters {
    uint64_t sent = 0, received = 0;
    uint64_t sent_to_slots = 0;      // of sent; the others were active messages
    uint64_t stale_slots = 0;        // frames in slots of a link that is over: dropped
    uint64_t unknown_dropped = 0;    // from an end that is disconnected, or sent too much before its connect
    uint64_t malformed_dropped = 0;  // not our header
    uint64_t oversize_refused = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  enum class TagKind : uint16_t {
    frame = 0,       // the message's data is the frame
    slot_frame = 1,  // the frame is in a slot of the receiver's
    slot_offer = 2,  // the message's data is InboundSlots::offer()
    head = 3,        // as frame, without the tail
    slot_head = 4,   // as slot_frame, without the tail
    tail = 5,        // the message's data is the tail of the message before
  };
  static bool is_in_slot(TagKind kind) { return kind == TagKind::slot_frame || kind == TagKind::slot_head; }
  static bool is_head(TagKind kind) { return kind == TagKind::head || kind == TagKind::slot_head; }
  // The header of every active message. Little-endian. What is out of bounds loses the link.
  struct FrameTag {
    uint64_t instance;    //  0  the sender's
    uint64_t sequence;    //  8  of the message on its link, from 0
    uint64_t num_read;    // 16  slots the sender has read so far of those it offered on this link
    uint32_t link;        // 24  counts the sender's connects
    uint32_t magic;       // 28  kFrameMagic, else dropped
    TagKind kind;         // 32
    uint16_t slot;        // 34  in a slot: which
    uint32_t slot_link;   // 36  in a slot: the receiver's link whose slots are meant; of another: dropped
    uint64_t slot_bytes;  // 40  in a slot: the length of what is there; tail: of its head
  };
  static_assert(sizeof(FrameTag) == 48);
  static constexpr uint32_t kFrameMagic = 0x32464847;  // "GHF2"
  static constexpr unsigned kFrameAmId = 1;
  static constexpr PeerId kNoPeer = 0;

  struct Send {
    UcxExchange* owner;
    PeerId peer = 0;                    // 0: idle
    FrameTag tag;                       // UCX reads it until the send completes
    OutboundSlots* in_place = nullptr;  // the region is the next slot of these
    FrameBuffer buffer;                 // else
    size_t capacity = 0;                // of the region
    TailBuffer tail;                    // goes behind it; of a tail's own message: what is sent
    size_t tail_bytes = 0;
    int num_unfinished = 0;        // requests that read tag and buffer
    ucs_status_t status = UCS_OK;  // the first that was not
  };
  struct Posting {
    Send* send;
    size_t bytes;
  };

  // A frame's bytes: in memory of UCX that we hold, in a buffer of ours, in a slot of ours, or still at the
  // sender (rendezvous). A tail's are received into `tail`, or behind its head's place in `buffer`.
  struct Arrival {
    TagKind kind = TagKind::frame;
    uint32_t link = 0;  // the sender's
    uint64_t sequence = 0;
    uint64_t num_read = 0;
    size_t bytes = 0;
    size_t head_bytes = 0;  // kind tail: of the message before
    void* held = nullptr;   // UCX's; given back by ucp_am_data_release
    bool rendezvous = false;
    FrameBuffer buffer;
    std::shared_ptr<InboundSlots> slots;  // where it lies, if in a slot
    uint32_t slot_idx = 0;
    const std::byte* slot = nullptr;
    TailBuffer tail;
    size_t tail_bytes = 0;  // in `tail`
    const std::byte* data() const {
      return slot ? slot : held ? static_cast<const std::byte*>(held) : buffer.data();
    }
  };
  // In slots that were gone when it came.
  static bool is_late(const Arrival& arrival) { return is_in_slot(arrival.kind) && !arrival.slot; }
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
    SlotAccess slot_access;  // of the endpoint
    bool has_sent_frames = false;
    uint64_t next_out = 0, next_in = 0;
    size_t num_in_flight = 0;
    Send* acquired = nullptr;
    std::optional<Arrival> head;              // whose tail is the next message
    std::vector<Arrival> early;               // by sequence
    bool offer_due = true;                    // once it is heard of
    std::shared_ptr<InboundSlots> inbound;    // shared with the frames in it, which may outlive the link
    std::unique_ptr<OutboundSlots> outbound;  // none until its offer comes
    std::unique_ptr<OutboundSlots> previous_outbound;
  };
  struct Closing {
    PeerId peer;
    ucp_ep_h endpoint;
    bool reports_errors;
    bool flushing;            // else closing
    void* request = nullptr;  // of the flush, then of the close
    std::chrono::steady_clock::time_point deadline;
    std::unique_ptr<OutboundSlots> outbound;  // puts under way use it
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
  void fail(PeerId id, Status why);                     // once; reported by poll()
  void start_close(PeerId id, Peer& peer, bool flush);  // takes its endpoint and slots
  void progress_closing();
  bool advance(Closing& closing);  // true: done
  void abandon(Peer& peer);        // its acquired and early frames
  void end_hold(uint32_t held_idx) override;
  std::chrono::nanoseconds longest_sleep() const;
  static void on_endpoint_error(void* self, ucp_ep_h endpoint, ucs_status_t status);

  // A frame's way out (ucx_sends.cc).
  static void on_sent(void* request, ucs_status_t status, void* send);
  Send* take_send(PeerId id);
  void offer_due_slots();
  void offer_slots(Peer& peer, PeerId id);
  bool put(Peer& peer, Send* send, size_t bytes);  // true: a fence is due before its tag
  void send_tag(Peer& peer, Send* send, std::span<const std::byte> data);
  Send* take_tail(const Posting& head);
  void track(Send* send, void* request);
  void finish_one(Send* send, ucs_status_t status);
  void recycle(Send* send);

  // Its way in (ucx_frames.cc).
  static ucs_status_t on_active_message(void* self, const void* header, size_t header_bytes, void* data,
                                        size_t bytes, const ucp_am_recv_param_t* param);
  static void on_received(void* request, ucs_status_t status, size_t bytes, void* receive);
  bool accept(PeerId id, Arrival& arrival);  // false: refused, and still the caller's
  void start_order(PeerId id);
  bool find_in_slot(PeerId id, const FrameTag& tag, Arrival& arrival);
  std::byte* make_room(Arrival& arrival);
  bool start_receive(PeerId id, Arrival& arrival);
  void received(Receive* receive, ucs_status_t status);
  void arrived(PeerId id, Arrival arrival);
  void deliver(PeerId id, Peer& peer, Arrival arrival);
  void join_tail(PeerId id, Peer& peer, Arrival tail);
  void hand_over(PeerId id, Arrival frame);
  void take_offer(PeerId id, Peer& peer, const Arrival& offer);
  void discard(Arrival arrival);
  void release(Arrival& arrival);

  const UcxOptions options_;
  const std::string local_address_;
  const uint64_t instance_;
  const uint64_t network_namespace_;
  TailPool* const tails_;

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
  std::vector<PeerId> offers_due_;  // peers heard of since the last poll()
  std::vector<Posting> posting_;    // within post()
  std::vector<Ready> ready_;        // for the next poll()
  HeldFrames<Ready> held_;          // lent for longer
  size_t on_frame_idx_ = 0;         // in delivering_, within on_frame()
  std::vector<Ready> delivering_;   // by the last poll(): what they hold is lent until the next
  uint32_t last_link_ = 0;
  bool shutting_down_ = false;
  bool cannot_be_woken_ = false;  // some peer's frames come without an event: see longest_sleep()
  Counters counters_;
};

}  // namespace guildhall
