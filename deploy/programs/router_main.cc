// guildhall-router: HTTP in, dense layers here, experts elsewhere.
#include "deploy/programs/daemon_main.h"
#include "deploy/programs/router_process.h"

int main(int argc, char** argv) {
  using namespace guildhall;
  return daemon_main(argc, argv, {"guildhall-router", "Serves a mixture-of-experts model over HTTP."},
                     [](DaemonStart start) { return RouterProcess(std::move(start)).run(); });
}
