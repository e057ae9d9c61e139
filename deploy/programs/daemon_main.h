// daemon_main.h: what both daemons' main() share: options, the configuration file, the log, and exit codes:
// 0 orderly end, 1 could not start or go on, 2 bad command line or configuration.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "base/status.h"
#include "proto/config.pb.h"

namespace guildhall {

struct DaemonOptions {
  std::string program;  // "guildhall-router"
  std::string description;
  bool is_router = true;  // which finds its settings by --name, or is the only one; else --name is required
};

struct DaemonStart {
  std::filesystem::path file;
  config::Config of_file;  // as the file says it
  config::Config config;   // a router's own settings are in `router`
  std::string name;        // empty: the only router
};

int daemon_main(int argc, char** argv, const DaemonOptions& options,
                const std::function<Result<void>(DaemonStart)>& run);

}  // namespace guildhall
