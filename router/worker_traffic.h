// worker_traffic.h: what went to one worker for one layer, and how long it took to answer.
#pragma once

#include <cstdint>

namespace guildhall {

struct WorkerTraffic {
  int64_t frames = 0, pairs = 0;
  int64_t bytes_sent = 0, bytes_received = 0;
  int64_t answer_ns = 0;  // from a frame that is packed to its answer, as this router saw it; sum over frames

  WorkerTraffic& operator+=(const WorkerTraffic& other) {
    frames += other.frames, pairs += other.pairs;
    bytes_sent += other.bytes_sent, bytes_received += other.bytes_received;
    answer_ns += other.answer_ns;
    return *this;
  }
  bool operator==(const WorkerTraffic&) const = default;
};

}  // namespace guildhall
