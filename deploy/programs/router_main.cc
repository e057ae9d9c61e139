// guildhall-router: HTTP in, dense layers here, experts elsewhere.
#include "deploy/programs/daemon_main.h"
#include "deploy/programs/router_process.h"

int main(int argc, char** argv) {
  using namespace guildhall;
  return daemon_main(argc, argv, {"guildhall-router", "Serves a mixture-of-experts model over HTTP."},
                     [](config::Config config, const std::string& name) -> Result<void> {
                       if (!name.empty() && name != config.router().name())
                         return Status{Code::not_found, "the configuration has no router '" + name +
                                                            "'; router.name is " + config.router().name()};
                       return RouterProcess(std::move(config)).run();
                     });
}
