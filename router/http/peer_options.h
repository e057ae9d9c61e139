// peer_options.h: the other routers of the configuration, to whom requests may be forwarded (peers.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/host_port.h"

namespace guildhall {

struct PeerOptions {
  struct Peer {
    std::string name;
    HostPort address;
  };
  std::vector<Peer> peers;
  int64_t block_size = 16, prefix_affinity = 2048;  // as the front end's
  int64_t margin = 512;                             // tokens
  std::chrono::milliseconds interval{200};          // between two questions for a peer's load
};

}  // namespace guildhall
