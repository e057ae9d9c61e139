// loopback_fabric.h: what loopback ends share: mailboxes, buffers, and the faults of each link. Private to
// loopback*.cc.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "transport/frame_pool.h"
#include "transport/inbound_links.h"
#include "transport/loopback.h"

namespace guildhall {

struct LoopbackArrival {
  LinkTag tag;
  FrameBuffer buffer;
  size_t bytes = 0;
  TailBuffer tail;
  size_t tail_bytes = 0;
  Clock::time_point due{};  // not before this, whatever polls say
  uint32_t delay_polls = 0;
  bool overtakable = false;
  bool lost = false;  // not a frame: the sender died
};

// An end's letter box: any thread puts, its owner takes.
struct LoopbackMailbox {
  LoopbackMailbox(std::string end_name, TailPool* end_tails) : name(std::move(end_name)), tails(end_tails) {}

  void put(LoopbackArrival arrival);
  void wake();
  void kill();

  const std::string name;
  TailPool* const tails;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<LoopbackArrival> arrivals;
  bool woken = false;
  std::atomic<bool> dead{false};
  std::atomic<bool> something{false};  // arrivals, woken or dead: what a spinning owner looks at
};

// What happens to one frame.
struct LoopbackFate {
  bool lost = false, duplicate = false, overtakable = false, dies = false;
  uint32_t delay_polls = 0;
  std::chrono::nanoseconds latency{0};
};

struct LoopbackFabric::Shared {
  Shared(uint64_t fabric_seed, WaitOptions wait_options) : seed(fabric_seed), wait(wait_options) {}

  using LinkName = std::pair<std::string, std::string>;  // from, to
  struct Link {
    explicit Link(uint64_t seed) : random(seed) {}
    Faults faults;
    std::mt19937_64 random;
    uint64_t num_frames = 0;
  };
  Link& link(const LinkName& name);  // mutex held

  // Draws a frame's fate, and corrupts or truncates it in place.
  LoopbackFate draw(const LinkName& name, std::byte* data, size_t& bytes);
  void kill(uint64_t instance);

  FrameBuffer take(size_t bytes);
  void give(FrameBuffer buffer);

  const uint64_t seed;
  const WaitOptions wait;
  std::mutex mutex;                                           // everything below
  std::map<uint64_t, std::shared_ptr<LoopbackMailbox>> ends;  // by instance
  uint64_t last_instance = 0;
  uint32_t last_link = 0;
  std::map<LinkName, Link> links;
  std::atomic<bool> any_faults{false};
  Counters counters;

  std::mutex pool_mutex;
  FramePool pool;
};

}  // namespace guildhall
