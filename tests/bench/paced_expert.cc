// paced_expert.cc: guildhall-expert with a device that takes as long as it is told (paced_ops.h), for what the
// balance of several workers comes to where one machine holds them all. Its own options come first:
//   paced_expert PAIR_US ACTIVATION_US [guildhall-expert's arguments]
#include <cstdio>
#include <cstdlib>

#include "deploy/programs/daemon_main.h"
#include "deploy/programs/expert_process.h"
#include "tests/bench/paced_ops.h"

int main(int argc, char** argv) {
  using namespace guildhall;
  if (argc < 3) {
    std::fprintf(stderr, "usage: paced_expert PAIR_US ACTIVATION_US [guildhall-expert's arguments]\n");
    return 2;
  }
  const auto us = [](const char* text) { return std::chrono::microseconds(std::atoi(text)); };
  const Pace pace{us(argv[1]), us(argv[2])};
  return daemon_main(
      argc - 2, argv + 2, {"paced_expert", "Runs experts at a pace of its own.", /*is_router=*/false},
      [&](const DaemonStart& start) {
        return run_expert_process(start, [&](std::unique_ptr<Ops> ops) {
          return make_paced_ops(std::move(ops), pace);
        });
      });
}
