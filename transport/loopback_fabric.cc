// loopback_fabric.cc: mailboxes, shared buffers, and drawing each frame's fate.
#include "transport/loopback_fabric.h"

#include "base/check.h"

namespace guildhall {
namespace {

// The same on every machine and run, unlike std::hash.
uint64_t fnv1a(uint64_t hash, std::string_view text) {
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return (hash ^ 0xff) * 0x100000001b3;
}

bool chance(std::mt19937_64& random, double probability) {
  // Drawn whatever the probability is, so that setting one fault does not change the others' schedule.
  return static_cast<double>(random() >> 11) * 0x1p-53 < probability;
}

}  // namespace

void LoopbackMailbox::put(LoopbackArrival arrival) {
  {
    std::lock_guard lock(mutex);
    if (dead) return;
    arrivals.push_back(std::move(arrival));
    something.store(true, std::memory_order_release);
  }
  changed.notify_one();
}

void LoopbackMailbox::wake() {
  {
    std::lock_guard lock(mutex);
    woken = true;
    something.store(true, std::memory_order_release);
  }
  changed.notify_one();
}

void LoopbackMailbox::kill() {
  {
    std::lock_guard lock(mutex);
    dead = true;
    arrivals.clear();
    something.store(true, std::memory_order_release);
  }
  changed.notify_one();
}

LoopbackFabric::Shared::Link& LoopbackFabric::Shared::link(const LinkName& name) {
  return links.try_emplace(name, fnv1a(fnv1a(seed ^ 0xcbf29ce484222325, name.first), name.second))
      .first->second;
}

LoopbackFate LoopbackFabric::Shared::draw(const LinkName& name, std::byte* data, size_t& bytes) {
  std::lock_guard lock(mutex);
  Link& link = this->link(name);
  const Faults& faults = link.faults;
  LoopbackFate fate;
  fate.dies = ++link.num_frames == faults.die_at_frame;
  fate.lost = chance(link.random, faults.loss);
  fate.duplicate = chance(link.random, faults.duplicate);
  fate.overtakable = chance(link.random, faults.reorder);
  const bool corrupt = chance(link.random, faults.corrupt) && bytes > 0;
  const bool truncate = chance(link.random, faults.truncate) && bytes > 0;
  const uint64_t where = link.random(), how = link.random(), when = link.random();
  if (corrupt) data[where % bytes] ^= static_cast<std::byte>(1 + how % 255);
  if (truncate) bytes = how % bytes;
  fate.delay_polls = faults.min_delay_polls +
                     static_cast<uint32_t>(when % (faults.max_delay_polls - faults.min_delay_polls + 1));
  fate.latency = faults.latency;
  constexpr uint32_t kOvertakenByPolls = 4;
  if (fate.overtakable) fate.delay_polls += 1 + static_cast<uint32_t>(where % kOvertakenByPolls);
  counters.lost += fate.lost;
  counters.duplicated += fate.duplicate && !fate.lost;
  counters.corrupted += corrupt;
  counters.truncated += truncate;
  counters.reordered += fate.overtakable;
  counters.delayed += fate.delay_polls > 0;
  return fate;
}

void LoopbackFabric::Shared::kill(uint64_t instance) {
  std::vector<std::shared_ptr<LoopbackMailbox>> others;
  std::shared_ptr<LoopbackMailbox> victim;
  {
    std::lock_guard lock(mutex);
    auto found = ends.find(instance);
    if (found == ends.end()) return;
    victim = std::move(found->second);
    ends.erase(found);
    for (auto& [id, mailbox] : ends) others.push_back(mailbox);
  }
  victim->kill();
  for (auto& mailbox : others) mailbox->put({.tag = {.instance = instance, .link = 0}, .lost = true});
}

FrameBuffer LoopbackFabric::Shared::take(size_t bytes) {
  std::lock_guard lock(pool_mutex);
  return pool.take(bytes);
}

void LoopbackFabric::Shared::give(FrameBuffer buffer) {
  std::lock_guard lock(pool_mutex);
  pool.give(std::move(buffer));
}

LoopbackFabric::LoopbackFabric(uint64_t seed, WaitOptions wait)
    : shared_(std::make_shared<Shared>(seed, wait)) {}

void LoopbackFabric::set_faults(std::string_view from, std::string_view to, const Faults& faults) {
  GH_CHECK(faults.min_delay_polls <= faults.max_delay_polls);
  std::lock_guard lock(shared_->mutex);
  shared_->link({std::string(from), std::string(to)}).faults = faults;
  shared_->any_faults = true;
}

void LoopbackFabric::kill(std::string_view name) {
  std::vector<uint64_t> victims;
  {
    std::lock_guard lock(shared_->mutex);
    for (auto& [instance, mailbox] : shared_->ends)
      if (mailbox->name == name) victims.push_back(instance);
  }
  for (uint64_t instance : victims) shared_->kill(instance);
}

LoopbackFabric::Counters LoopbackFabric::counters() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->counters;
}

}  // namespace guildhall
