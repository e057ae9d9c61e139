#include "transport/ucx_slots.h"

#include <fmt/format.h>

#include <cstring>

#include "base/units.h"

namespace guildhall {
namespace {

// Then rkey_bytes of UCX's packed remote key; 0 where the memory is for mapping only.
struct OfferHeader {
  uint64_t base;        //  0  at the offering end
  uint64_t slot_bytes;  //  8  <= kMaxSlotBytes
  uint32_t num;         // 16  1 to kMaxSlots
  uint32_t rkey_bytes;  // 20  the rest of the message
  int32_t pid, fd;      // 24  SharedMemoryHandle
  uint64_t token[2];    // 32
};
static_assert(sizeof(OfferHeader) == 48);

}  // namespace

Result<std::unique_ptr<InboundSlots>> InboundSlots::create(ucp_context_h context, SlotAccess access,
                                                           const SlotOptions& options) {
  GH_ASSIGN(SharedMemory memory, SharedMemory::create(options.link_bytes()));
  std::unique_ptr<InboundSlots> slots(new InboundSlots(context, options, std::move(memory)));
  if (!access.shares_memory) GH_TRY(slots->register_for_puts());
  return slots;
}

Result<void> InboundSlots::register_for_puts() {
  const auto failed = [&](ucs_status_t status) {
    return Status{
        Code::resource_exhausted,
        fmt::format("{} of slots cannot be registered: {}; see `ulimit -l`, or lower transport.slots",
                    format_bytes(static_cast<int64_t>(options_.link_bytes())), ucs_status_string(status))};
  };
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_PROT | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = memory_.data();
  params.length = options_.link_bytes();
  params.prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE | UCP_MEM_MAP_PROT_REMOTE_WRITE;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  if (ucs_status_t status = ucp_mem_map(context_, &params, &registration_); status != UCS_OK) {
    registration_ = nullptr;
    return failed(status);
  }
  void* rkey = nullptr;
  size_t rkey_bytes = 0;
  if (ucs_status_t status = ucp_rkey_pack(context_, registration_, &rkey, &rkey_bytes); status != UCS_OK)
    return failed(status);
  rkey_.assign(static_cast<const char*>(rkey), rkey_bytes);
  ucp_rkey_buffer_release(rkey);
  return {};
}

InboundSlots::~InboundSlots() {
  if (registration_) ucp_mem_unmap(context_, registration_);
}

std::string InboundSlots::offer() const {
  const SharedMemoryHandle& handle = memory_.handle();
  const OfferHeader header{.base = reinterpret_cast<uint64_t>(memory_.data()),
                           .slot_bytes = options_.bytes,
                           .num = options_.num,
                           .rkey_bytes = static_cast<uint32_t>(rkey_.size()),
                           .pid = handle.pid,
                           .fd = handle.fd,
                           .token = {handle.token[0], handle.token[1]}};
  std::string bytes(sizeof header, '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes + rkey_;
}

std::span<const std::byte> InboundSlots::frame(uint32_t idx, size_t bytes) const {
  if (idx >= options_.num || bytes > options_.bytes) return {};
  return {memory_.data() + idx * options_.stride(), bytes};
}

void InboundSlots::set_read(uint32_t idx) {
  static_assert(kMaxSlots <= 64);
  const auto next = static_cast<uint32_t>(num_read_ % options_.num);
  read_ahead_ |= uint64_t{1} << (idx + options_.num - next) % options_.num;
  for (; read_ahead_ & 1; read_ahead_ >>= 1) ++num_read_;
}

Result<std::unique_ptr<OutboundSlots>> OutboundSlots::accept(ucp_ep_h endpoint, SlotAccess access,
                                                             std::string_view offer, uint32_t link) {
  OfferHeader header{};
  if (offer.size() >= sizeof header) std::memcpy(&header, offer.data(), sizeof header);
  const bool valid = header.num >= 1 && header.num <= kMaxSlots && header.slot_bytes >= 1 &&
                     header.slot_bytes <= kMaxSlotBytes && offer.size() == sizeof header + header.rkey_bytes;
  if (!valid)
    return Status{Code::data_loss,
                  fmt::format("an offer of slots that cannot be right ({} bytes, {} slots of {} bytes)",
                              offer.size(), header.num, header.slot_bytes)};
  const SlotOptions shape{.num = header.num, .bytes = header.slot_bytes};
  std::unique_ptr<OutboundSlots> slots(new OutboundSlots);
  slots->remote_base_ = header.base;
  slots->stride_ = shape.stride();
  slots->slot_bytes_ = shape.bytes;
  slots->num_ = shape.num;
  slots->link_ = link;
  if (access.shares_memory) {
    GH_ASSIGN(
        SharedMemory memory,
        SharedMemory::map({header.pid, header.fd, {header.token[0], header.token[1]}}, shape.link_bytes()));
    slots->memory_.emplace(std::move(memory));
    return slots;
  }
  if (!access.has_native_put || header.rkey_bytes == 0)
    return Status{Code::unavailable, "no puts of the wire's own lead there"};
  if (ucs_status_t status = ucp_ep_rkey_unpack(endpoint, offer.data() + sizeof header, &slots->rkey_);
      status != UCS_OK) {
    slots->rkey_ = nullptr;
    return Status{Code::unavailable, fmt::format("its remote key: {}", ucs_status_string(status))};
  }
  return slots;
}

OutboundSlots::~OutboundSlots() {
  if (rkey_) ucp_rkey_destroy(rkey_);
}

bool OutboundSlots::set_freed(uint64_t num_freed) {
  if (num_freed < num_freed_ || num_freed > num_taken_) return false;
  num_freed_ = num_freed;
  return true;
}

std::string OutboundSlots::describe() const {
  return fmt::format("{} slots of {}, {}", num_, format_bytes(static_cast<int64_t>(slot_bytes_)),
                     is_mapped() ? "written in place" : "by put");
}

}  // namespace guildhall
