// up.h: `guildhall up --config FILE`: starts the processes of the file that belong on this host, shows them
// loading, says where to call, keeps them running, passes SIGHUP on to them, and stops them all on Ctrl-C.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"

namespace guildhall {

struct UpOptions {
  std::filesystem::path config_file;
  std::optional<std::string> host;    // which host this is; default: matched by address
  std::filesystem::path program_dir;  // where guildhall-router and guildhall-expert are
};

// Blocks until a signal; the error is what ended it otherwise.
Result<void> run_up(const UpOptions& options);

}  // namespace guildhall
