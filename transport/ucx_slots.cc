#include "transport/ucx_slots.h"

#include <fmt/format.h>

#include <cstring>

#include "base/units.h"

namespace guildhall {
namespace {

// Then rkey_bytes of UCX's packed remote key.
struct OfferHeader {
  uint64_t base;        //  0  at the offering end
  uint64_t slot_bytes;  //  8  <= kMaxSlotBytes
  uint64_t stride;      // 16  >= slot_bytes, multiple of 64
  uint32_t num;         // 24  1 to kMaxSlots
  uint32_t rkey_bytes;  // 28  the rest of the message
};
static_assert(sizeof(OfferHeader) == 32);

}  // namespace

Result<std::unique_ptr<InboundSlots>> InboundSlots::map(ucp_context_h context, const SlotOptions& options) {
  std::unique_ptr<InboundSlots> slots(new InboundSlots(context, options));
  const auto failed = [&](std::string_view what, ucs_status_t status) {
    return Status{
        Code::resource_exhausted,
        fmt::format("{} slots of {}: {}: {}; see /dev/shm and `ulimit -l`, or lower transport.slots",
                    options.num, format_bytes(static_cast<int64_t>(options.bytes)), what,
                    ucs_status_string(status))};
  };
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS |
                      UCP_MEM_MAP_PARAM_FIELD_PROT | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.length = options.link_bytes();
  params.flags = UCP_MEM_MAP_ALLOCATE;
  params.prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE | UCP_MEM_MAP_PROT_REMOTE_WRITE;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  if (ucs_status_t status = ucp_mem_map(context, &params, &slots->memory_); status != UCS_OK) {
    slots->memory_ = nullptr;
    return failed("mapping", status);
  }
  ucp_mem_attr_t attributes{};
  attributes.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS;
  if (ucs_status_t status = ucp_mem_query(slots->memory_, &attributes); status != UCS_OK)
    return failed("address", status);
  slots->base_ = static_cast<std::byte*>(attributes.address);
  void* rkey = nullptr;
  size_t rkey_bytes = 0;
  if (ucs_status_t status = ucp_rkey_pack(context, slots->memory_, &rkey, &rkey_bytes); status != UCS_OK)
    return failed("remote key", status);
  slots->rkey_.assign(static_cast<const char*>(rkey), rkey_bytes);
  ucp_rkey_buffer_release(rkey);
  return slots;
}

InboundSlots::~InboundSlots() {
  if (memory_) ucp_mem_unmap(context_, memory_);
}

std::string InboundSlots::offer() const {
  const OfferHeader header{.base = reinterpret_cast<uint64_t>(base_),
                           .slot_bytes = options_.bytes,
                           .stride = options_.stride(),
                           .num = options_.num,
                           .rkey_bytes = static_cast<uint32_t>(rkey_.size())};
  std::string bytes(sizeof header, '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes + rkey_;
}

std::span<const std::byte> InboundSlots::frame(uint32_t idx, size_t bytes) const {
  if (idx >= options_.num || bytes > options_.bytes) return {};
  return {base_ + idx * options_.stride(), bytes};
}

Result<std::unique_ptr<OutboundSlots>> OutboundSlots::accept(ucp_ep_h endpoint, std::string_view offer,
                                                             uint32_t link, bool has_native_put) {
  OfferHeader header{};
  if (offer.size() >= sizeof header) std::memcpy(&header, offer.data(), sizeof header);
  const bool valid = header.num >= 1 && header.num <= kMaxSlots && header.slot_bytes <= kMaxSlotBytes &&
                     header.stride >= header.slot_bytes && header.stride <= kMaxSlotBytes + 64 &&
                     header.stride % 64 == 0 && offer.size() == sizeof header + header.rkey_bytes;
  if (!valid)
    return Status{Code::data_loss, fmt::format("an offer of slots that cannot be right ({} bytes, {} slots "
                                               "of {} bytes)",
                                               offer.size(), header.num, header.slot_bytes)};
  std::unique_ptr<OutboundSlots> slots(new OutboundSlots);
  slots->remote_base_ = header.base;
  slots->stride_ = header.stride;
  slots->slot_bytes_ = header.slot_bytes;
  slots->num_ = header.num;
  slots->link_ = link;
  if (ucp_ep_rkey_unpack(endpoint, offer.data() + sizeof header, &slots->rkey_) != UCS_OK) {
    slots->rkey_ = nullptr;
    return std::unique_ptr<OutboundSlots>();
  }
  void* mapped = nullptr;
  if (ucp_rkey_ptr(slots->rkey_, header.base, &mapped) == UCS_OK)
    slots->mapped_ = static_cast<std::byte*>(mapped);
  else if (!has_native_put)
    return std::unique_ptr<OutboundSlots>();
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
