// exchange_harness.h: ends of every kind of exchange in one process, and a handler that remembers what it
// got.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transport/loopback.h"
#include "transport/ucx_exchange.h"

namespace guildhall {

using Bytes = std::vector<std::byte>;

// Bytes that differ by (seed, position), so that a mixed-up or shifted frame shows.
inline void fill_pattern(std::span<std::byte> bytes, uint64_t seed) {
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>((seed * 0x9e3779b97f4a7c15 + i * 0x2545f4914f6cdd1d) >> 56);
}
inline Bytes pattern(size_t size, uint64_t seed) {
  Bytes bytes(size);
  fill_pattern(bytes, seed);
  return bytes;
}

class Recorder : public ExchangeHandler {
 public:
  void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 8, 0u);
    EXPECT_FALSE(lost.contains(peer)) << "a frame after the peer was lost";
    frames[peer].emplace_back(bytes.begin(), bytes.end());
    ++num_frames;
  }
  void on_peer_lost(PeerId peer, const Status& why) override {
    EXPECT_TRUE(lost.emplace(peer, why).second) << "lost twice";
  }

  std::map<PeerId, std::vector<Bytes>> frames;
  std::map<PeerId, Status> lost;
  size_t num_frames = 0;
};

// Error-free: a refusal is the test's failure.
inline void send_frame(Exchange& from, PeerId to, size_t size, uint64_t seed) {
  auto region = from.acquire(to, size);
  ASSERT_TRUE(region) << to_string(region.error());
  ASSERT_EQ(region->size(), size);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->data()) % 64, 0u);
  fill_pattern(*region, seed);
  const Exchange::Outgoing outgoing{to, size};
  from.post({&outgoing, 1});
}

// Polls `ends` with their handlers until `done`; a test that hangs ends after a generous minute.
inline bool drive(const std::vector<std::pair<Exchange*, ExchangeHandler*>>& ends,
                  const std::function<bool()>& done) {
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (!done()) {
    if (Clock::now() > deadline) return false;
    for (auto& [end, handler] : ends) end->poll(*handler);
  }
  return true;
}

// A kind of exchange to run the conformance tests on.
struct ExchangeKindUnderTest {
  std::string name;
  // nth end of the test's world
  std::function<std::unique_ptr<Exchange>(LoopbackFabric&, const std::string& end_name)> make;
  bool reports_destroyed_peer;
};

inline void PrintTo(const ExchangeKindUnderTest& kind, std::ostream* out) { *out << kind.name; }

inline std::unique_ptr<Exchange> open_ucx(UcxOptions options) {
  auto exchange = UcxExchange::open(options);
  if (!exchange) ADD_FAILURE() << to_string(exchange.error());
  return std::move(exchange).value();
}

inline UcxOptions tcp_options() { return {.tls = "tcp", .net_devices = "lo"}; }

// Not sysv: TSan follows mmap, but not shmat and shmdt. Of a segment that lands where another lay it reports
// the old one's accesses as a race.
inline UcxOptions shared_memory_options() {
  return {.tls = "posix,cma", .keepalive = std::chrono::milliseconds(100)};
}

}  // namespace guildhall
