// guildhall-expert: holds the experts a router places here and runs them.
#include "deploy/programs/daemon_main.h"
#include "deploy/programs/expert_process.h"

int main(int argc, char** argv) {
  using namespace guildhall;
  return daemon_main(argc, argv,
                     {"guildhall-expert", "Runs experts for guildhall-router.", /*is_router=*/false},
                     [](const DaemonStart& start) { return run_expert_process(start); });
}
