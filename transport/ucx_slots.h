// ucx_slots.h: memory that a peer writes frames into. Each end of a link maps `num` slots and offers them to
// the other, which puts a frame into the next free one and signals it with a small active message.
//
// A signal rather than a polled flag: it is ordered behind the put, it wakes a sleeping receiver, and a poll
// costs the same however many peers there are. Slots are used in turn; each frame that goes the other way
// says how many were read, so credits cost nothing. Without a free slot, or with a frame that is larger than
// one, the frame itself is an active message.
//
// Every link has memory of its own: what a peer of an earlier link still writes lands where nobody reads.
// Owner: the exchange's thread.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "transport/shared_memory.h"
#include "transport/slot_options.h"

namespace guildhall {

// What an endpoint has for writing into the peer's memory.
struct SlotAccess {
  bool shares_memory = false;   // the peer is on this machine: frames are packed in place
  bool has_native_put = false;  // else, if set: by put
  bool any() const { return shares_memory || has_native_put; }
};

// Our memory, for one peer to write.
class InboundSlots {
 public:
  // Errors: resource_exhausted: no memory, or it cannot be registered with the network device.
  static Result<std::unique_ptr<InboundSlots>> create(ucp_context_h context, SlotAccess access,
                                                      const SlotOptions& options);
  ~InboundSlots();
  InboundSlots(const InboundSlots&) = delete;
  InboundSlots& operator=(const InboundSlots&) = delete;

  // What the peer needs to write here: see OutboundSlots::accept(). Same-architecture bytes, for one link.
  std::string offer() const;
  // The frame in slot `idx`; none when there is no such slot, or no such room in it.
  std::span<const std::byte> frame(uint32_t idx, size_t bytes) const;
  // The frame in slot `idx` was read. In any order; slots are freed in the order in which they are filled.
  void set_read(uint32_t idx);
  uint64_t num_read() const { return num_read_; }  // freed so far

 private:
  InboundSlots(ucp_context_h context, const SlotOptions& options, SharedMemory memory)
      : context_(context), options_(options), memory_(std::move(memory)) {}
  Result<void> register_for_puts();

  ucp_context_h context_;
  SlotOptions options_;
  SharedMemory memory_;
  ucp_mem_h registration_ = nullptr;
  std::string rkey_;
  uint64_t num_read_ = 0;
  uint64_t read_ahead_ = 0;  // bit i: the frame i after the next to be freed was read
};

// A peer's memory, for us to write.
class OutboundSlots {
 public:
  // `link` is the peer's: it numbers the offer. Errors: data_loss, the offer's bytes are wrong; unavailable,
  // they cannot be written from here (any more): frames go as messages then.
  static Result<std::unique_ptr<OutboundSlots>> accept(ucp_ep_h endpoint, SlotAccess access,
                                                       std::string_view offer, uint32_t link);
  ~OutboundSlots();
  OutboundSlots(const OutboundSlots&) = delete;
  OutboundSlots& operator=(const OutboundSlots&) = delete;

  bool fits(size_t bytes) const { return bytes <= slot_bytes_ && num_taken_ - num_freed_ < num_; }
  uint32_t next() const { return static_cast<uint32_t>(num_taken_ % num_); }
  void take() { ++num_taken_; }
  // The peer has read so many in all. False when it cannot have.
  bool set_freed(uint64_t num_freed);

  uint32_t link() const { return link_; }
  ucp_rkey_h rkey() const { return rkey_; }
  uint64_t remote_address(uint32_t idx) const { return remote_base_ + uint64_t{idx} * stride_; }
  // The slot itself where the peer's memory is mapped here (shared memory): frames are packed in place.
  bool is_mapped() const { return memory_.has_value(); }
  std::byte* mapped(uint32_t idx) const { return memory_->data() + uint64_t{idx} * stride_; }
  std::string describe() const;

 private:
  OutboundSlots() = default;

  ucp_rkey_h rkey_ = nullptr;
  uint64_t remote_base_ = 0, stride_ = 0, slot_bytes_ = 0;
  uint32_t num_ = 0, link_ = 0;
  std::optional<SharedMemory> memory_;
  uint64_t num_taken_ = 0, num_freed_ = 0;
};

}  // namespace guildhall
