// loopback.h: exchange ends inside one process, with seeded faults for tests.
//
// Without faults a frame's hand-over is a pointer move: the receiver reads the buffer the sender packed. With
// faults, each directed link draws its frames' fates from its own generator, so that a single-threaded test
// replays exactly from its seed. Random delays count polls of the receiving end, not time, for the same
// reason; `latency` is a wire's: for measuring what it costs and what hides it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "transport/exchange.h"
#include "transport/tail_pool.h"
#include "transport/wait_options.h"

namespace guildhall {

class LoopbackFabric {
 public:
  // Probabilities in [0,1], per frame of one directed link.
  struct Faults {
    double loss = 0;
    double duplicate = 0;  // delivered twice
    double corrupt = 0;    // one byte changed
    double truncate = 0;   // cut to a shorter length
    double reorder = 0;    // held back, so that later frames of its own link overtake it
    uint32_t min_delay_polls = 0, max_delay_polls = 0;  // order within the link is kept
    // From post() until a poll can deliver it; wait() sleeps until then. To be set before frames flow.
    std::chrono::nanoseconds latency{0};
    uint64_t die_at_frame = 0;  // the sender dies as it posts its Nth frame on this link; 0: never
  };

  struct Counters {
    uint64_t lost = 0, duplicated = 0, corrupted = 0, truncated = 0, reordered = 0, delayed = 0;
    uint64_t unclaimed_dropped = 0;  // from an end that is disconnected, or sent too much before its connect
  };

  explicit LoopbackFabric(uint64_t seed = 0, WaitOptions wait = {});

  // Any thread. Ends keep what they need of the fabric alive. Destroying an end is death to its peers.
  // `tails` is borrowed: between ends that were given the same, frames may have tails in it; faults change
  // what is before the tail only.
  std::unique_ptr<Exchange> make_end(std::string name, TailPool* tails = nullptr);

  // Any thread; ends by name, whether made yet or not. Applies from the next frame on.
  void set_faults(std::string_view from, std::string_view to, const Faults& faults);
  // The end stops sending and receiving, as a killed process does; its peers are told. Any thread.
  void kill(std::string_view name);
  Counters counters() const;

  struct Shared;

 private:
  std::shared_ptr<Shared> shared_;
};

}  // namespace guildhall
