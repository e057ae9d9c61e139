// config_yaml.h: the configuration file as a config.proto message: read strictly, defaults filled in,
// checked. Keys are the schema's field names; *_bytes, *_us and *_millionths fields are written without
// that suffix, as `memory: 4GiB`, `deadline: 250ms` and `min_gain: 0.05`. docs/configuration.md lists them
// all.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

namespace config {
class Config;
}

// The effective configuration: every default is filled in, derived ones included (model.name, hosts), and
// model.path is joined to the file's folder. max_model_len stays 0 when the checkpoint decides.
// The error lists up to kMaxConfigProblems problems, a line each: "guildhall.yaml:12: router.http.threads:
// ...".
Result<config::Config> read_config(const std::filesystem::path& path);
Result<config::Config> parse_config(std::string_view text, const std::filesystem::path& filename);

inline constexpr size_t kMaxConfigProblems = 20;

// The configuration as YAML that parse_config reads back to the same message.
std::string describe_config(const config::Config& config);

}  // namespace guildhall
