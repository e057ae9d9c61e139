// config_yaml.h: the configuration file as a config.proto message: read strictly, defaults filled in,
// checked. Keys are the schema's field names; *_bytes, *_us and *_millionths fields are written without
// that suffix, as `memory: 4GiB`, `deadline: 250ms` and `min_gain: 0.05`. docs/configuration.md lists them
// all.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

namespace config {
class Config;
}

// Where a file says what.
struct KeyLines {
  std::map<std::string, int> line_of;  // "experts.workers[1].address"; keys that are given, and sections

  // Of the key, or of what encloses it.
  int at(std::string key) const;
};

// The effective configuration: every default is filled in, derived ones included (model.name, hosts), and
// model.path is joined to the file's folder. max_model_len stays 0 when the checkpoint decides.
// The error lists up to kMaxConfigProblems problems, a line each: "guildhall.yaml:12: router.http.threads:
// ...".
// Fills in `lines`, unless it is null.
Result<config::Config> read_config(const std::filesystem::path& path, KeyLines* lines = nullptr);
Result<config::Config> parse_config(std::string_view text, const std::filesystem::path& filename,
                                    KeyLines* lines = nullptr);

inline constexpr size_t kMaxConfigProblems = 20;

// A problem with what a key names, found after the file was read: "guildhall.yaml:12: KEY: MESSAGE". `key` as
// "router.kv_cache.spill.path", of no list.
Status config_problem(const std::filesystem::path& file, std::string_view key, std::string_view message);

// The configuration as YAML that parse_config reads back to the same message.
std::string describe_config(const config::Config& config);

}  // namespace guildhall
