// ucx_options.h: what the configuration says about UCX. Left empty, UCX decides (its UCX_* environment
// included).
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "proto/exchange.h"
#include "transport/slot_options.h"
#include "transport/wait_options.h"

namespace guildhall {

class TailPool;

struct UcxOptions {
  std::string tls;          // "tcp", "posix,sysv,cma", "rc,ud,self"; as UCX_TLS
  std::string net_devices;  // "eth0", "mlx5_0:1"; as UCX_NET_DEVICES
  WaitOptions wait;
  SlotOptions slots;
  // Borrowed: where tails are received into, and what is sent comes from; none: all is in host memory. Unused
  // where UCX does not know the device's memory.
  TailPool* tails = nullptr;
  size_t max_frame_bytes = kMaxFrameBytes;  // larger ones are refused, and their link dropped
  // How often UCX looks whether quiet peers live. Its own default of 20 s is too slow to be a backstop of the
  // control plane's heartbeats; each look costs a system call per peer.
  std::chrono::milliseconds keepalive{1000};
  // What disconnect() and the destructor give sends in flight before they are cut off.
  std::chrono::milliseconds close_timeout{500};
};

}  // namespace guildhall
