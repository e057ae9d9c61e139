// ucx_address.h: what a UCX end tells its peers: who it is, and where UCX finds it. Little-endian:
//   0  u32 magic "GHU1"       else not ours
//   4  u16 version            newer: refused
//   6  u16 reserved           0
//   8  u64 instance           random, not 0; names the sender in every frame
//  16  u64 network namespace  inode; 0: unknown
//  24  the UCX worker address, 1 byte to kMaxUcxAddressBytes - 24
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

// Real ones are some hundred bytes per device; this bounds what a peer can make us parse.
inline constexpr size_t kMaxUcxAddressBytes = 64 * 1024;

struct UcxAddress {
  uint64_t instance = 0;
  uint64_t network_namespace = 0;
  std::string worker;
};

std::string encode(const UcxAddress& address);
Result<UcxAddress> decode_ucx_address(std::string_view bytes);

uint64_t random_instance();
uint64_t own_network_namespace();

}  // namespace guildhall
