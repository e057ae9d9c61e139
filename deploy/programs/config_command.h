// config_command.h: `guildhall config check FILE`.
#pragma once

#include <filesystem>

#include "base/status.h"

namespace guildhall {

// Reads the configuration and the checkpoint's config.json, prints the effective configuration and what it
// takes: KV capacity, experts and bytes per worker. The error is what a daemon would refuse to start with.
Result<void> check_config_file(const std::filesystem::path& file);

}  // namespace guildhall
