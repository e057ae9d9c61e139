// reload.h: the configuration file, read again while the process runs (SIGHUP, POST /v1/cluster/reload). What
// may change is applied, all of it or nothing: a file with errors, or with a change that needs a restart, is
// refused as a whole, and what was in force stays.
#pragma once

#include <filesystem>
#include <functional>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/config.pb.h"
#include "proto/config_diff.h"

namespace guildhall {

// Any thread.
class Reload {
 public:
  // `config` is what `file` said. `apply` gets the new configuration, of the whole file.
  Reload(std::filesystem::path file, config::Config config, std::function<void(const config::Config&)> apply);

  // What changed; both ways it is logged. Errors name file, line and key.
  Result<std::vector<ConfigChange>> run(std::string_view reason);

 private:
  Result<std::vector<ConfigChange>> try_to();

  const std::filesystem::path file_;
  const std::function<void(const config::Config&)> apply_;
  std::mutex mutex_;  // one at a time; guards config_
  config::Config config_;
};

}  // namespace guildhall
