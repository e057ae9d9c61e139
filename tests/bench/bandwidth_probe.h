// bandwidth_probe.h: what this machine can do now, measured in the run it is compared with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/team.h"

namespace guildhall {

// Which clock everything is timed with. wall: on a machine of one's own. cpu: the process's processor time
// divided by the team's threads; on a machine that others use, it says what the same run would take alone.
enum class BenchClock { wall, cpu };
void set_bench_clock(BenchClock clock);
double bench_seconds(const Team& team);

// Memory on huge pages where the system gives them, touched by `team`'s threads.
class HugeBuffer {
 public:
  HugeBuffer(int64_t bytes, Team& team);
  ~HugeBuffer();
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* data_;
  int64_t bytes_;
};

// Bytes per second that the team reads from the buffer, the median of a few passes; the buffer must be far
// larger than the last-level cache.
double read_bandwidth(Team& team, const HugeBuffer& buffer);

// fp32 operations per second of the team when every operand is in a register, two per fused multiply-add, in
// the instruction set in use.
double peak_flops(Team& team);

}  // namespace guildhall
