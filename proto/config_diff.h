// config_diff.h: what differs between two configurations, key by key.
#pragma once

#include <string>
#include <vector>

namespace guildhall {

namespace config {
class Config;
}

struct ConfigChange {
  std::string key;       // "balance.interval", "experts.workers[1].address"
  std::string from, to;  // as YAML writes the values; of lists that differ in length: "2 entries"
  bool operator==(const ConfigChange&) const = default;
};

// In schema order.
std::vector<ConfigChange> diff_config(const config::Config& from, const config::Config& to);

// "balance.interval: 30s -> 10s"
std::string to_string(const ConfigChange& change);

}  // namespace guildhall
