// spill_check.h: the folder of router.kv_cache.spill, looked at before a router loads anything.
#pragma once

#include <filesystem>

#include "model/spec.h"
#include "proto/config.pb.h"

namespace guildhall {

// Whether a router on this machine can have its file there. The error names the file of the configuration,
// the line, the key and what is wrong.
Result<void> check_spill(const config::Config& config, const std::filesystem::path& config_file);

// "; spill: 1048576 tokens in a file of 16 GiB in /nvme" and what there is to say about the disk; nothing
// where nothing is spilled.
Result<std::string> describe_spill(const config::Config& config, const ModelSpec& spec,
                                   int64_t max_model_len);

}  // namespace guildhall
