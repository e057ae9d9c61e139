// nccl_operations.cc: see the header.
#include "tests/emulation/nccl_operations.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace guildhall::emulation {
namespace {

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
uint16_t float_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
T load(const std::byte* from, size_t i) {
  T value;
  std::memcpy(&value, from + i * sizeof(T), sizeof(T));
  return value;
}
template <class T>
void store(std::byte* to, size_t i, T value) {
  std::memcpy(to + i * sizeof(T), &value, sizeof(T));
}

}  // namespace

ncclResult_t NcclOperation::advance(const RankView& me) {
  if (done) return ncclSuccess;
  if (kind == Kind::receive) return advance_receive(me);
  kind == Kind::send ? advance_send(me) : advance_all_reduce(me);
  return ncclSuccess;
}

void NcclOperation::advance_send(const RankView& me) {
  Ring& ring = me.shared->rings[me.rank][peer];
  if (!begun) {
    if (ring.num_sent.load() != number) return;  // one before it in this group is not through
    ring.written = 0, ring.read = 0;
    ring.message_bytes = bytes + 1;
    begun = true;
  }
  while (at < bytes) {
    const size_t room = kRingBytes - (at - ring.read.load());
    const size_t n = std::min({bytes - at, room, kRingBytes - at % kRingBytes});
    if (n == 0) return;
    std::memcpy(ring.bytes + at % kRingBytes, data + at, n);
    at += n;
    ring.written = at;
  }
  if (ring.num_taken.load() != number + 1) return;
  ring.num_sent = number + 1;
  done = true;
}

ncclResult_t NcclOperation::advance_receive(const RankView& me) {
  Ring& ring = me.shared->rings[peer][me.rank];
  if (!begun) {
    if (ring.num_taken.load() != number || ring.message_bytes.load() == 0) return ncclSuccess;
    if (ring.message_bytes.load() != bytes + 1) return ncclInvalidUsage;
    begun = true;
  }
  while (at < bytes) {
    const size_t n = std::min<size_t>(ring.written.load() - at, kRingBytes - at % kRingBytes);
    if (n == 0) return ncclSuccess;
    std::memcpy(data + at, ring.bytes + at % kRingBytes, n);
    at += n;
    ring.read = at;
  }
  ring.message_bytes = 0;
  ring.num_taken = number + 1;
  done = true;
  return ncclSuccess;
}

void NcclOperation::advance_all_reduce(const RankView& me) {
  const auto all = [&](std::atomic<uint64_t> Slice::*counter, uint64_t least) {
    for (int r = 0; r < me.num_ranks; ++r)
      if ((me.shared->slices[r].*counter).load() < least) return false;
    return true;
  };
  Slice& mine = me.shared->slices[me.rank];
  while (at < bytes) {
    const uint64_t slice = number + at / kRingBytes;
    const size_t n = std::min(bytes - at, kRingBytes);
    if (!begun) {
      if (!all(&Slice::num_read, slice)) return;
      std::memcpy(mine.bytes, from + at, n);
      mine.num_filled = slice + 1;
      begun = true;
    }
    if (!all(&Slice::num_filled, slice + 1)) return;
    const size_t element_bytes = type == ncclFloat32 ? 4 : 2;
    for (size_t i = 0; i < n / element_bytes; ++i) {
      float sum = 0;  // in rank order, so that all have the same bits
      for (int r = 0; r < me.num_ranks; ++r)
        sum += type == ncclFloat32 ? load<float>(me.shared->slices[r].bytes, i)
                                   : bf16_to_float(load<uint16_t>(me.shared->slices[r].bytes, i));
      type == ncclFloat32 ? store(data + at, i, sum) : store(data + at, i, float_to_bf16(sum));
    }
    mine.num_read = slice + 1;
    begun = false;
    at += n;
  }
  done = true;
}

}  // namespace guildhall::emulation
