// peer_ids.h: peer ids are unique in the process, whichever exchange gave them.
#pragma once

#include <atomic>

#include "transport/exchange.h"

namespace guildhall {

inline PeerId next_peer_id() {
  static std::atomic<PeerId> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace guildhall
