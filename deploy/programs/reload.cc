#include "deploy/programs/reload.h"

#include <fmt/format.h>

#include "base/log.h"
#include "proto/config_yaml.h"

namespace guildhall {
namespace {

constexpr std::string_view kLogLevel = "log.level";

// Where a trace goes and how replicas are chosen is settled when the engines are made.
bool may_change(const std::string& key) {
  return key == kLogLevel || (key.starts_with("balance.") && !key.starts_with("balance.trace.") &&
                              key != "balance.replica_choice");
}

}  // namespace

Reload::Reload(std::filesystem::path file, config::Config config,
               std::function<void(const config::Config&)> apply)
    : file_(std::move(file)), apply_(std::move(apply)), config_(std::move(config)) {}

Result<std::vector<ConfigChange>> Reload::run(std::string_view reason) {
  std::lock_guard lock(mutex_);
  Result<std::vector<ConfigChange>> changes = try_to();
  if (changes.has_error()) {
    log_warn("reload_refused", "reason={} error=\"{}\": nothing was changed", reason,
             changes.error().message);
    return changes;
  }
  for (const ConfigChange& change : *changes) log_info("reloaded", "{}", to_string(change));
  if (changes->empty()) log_info("reloaded", "reason={}: nothing differs", reason);
  return changes;
}

Result<std::vector<ConfigChange>> Reload::try_to() {
  KeyLines lines;
  GH_ASSIGN(config::Config config, read_config(file_, &lines));
  std::vector<ConfigChange> changes = diff_config(config_, config);
  std::string refused;
  for (const ConfigChange& change : changes)
    if (!may_change(change.key))
      refused += fmt::format("{}{}:{}: {}; this needs a restart", refused.empty() ? "" : "\n", file_.string(),
                             lines.at(change.key), to_string(change));
  if (!refused.empty()) return Status{Code::invalid_argument, std::move(refused)};
  set_log_level(config.log().level());
  apply_(config);
  config_ = std::move(config);
  return changes;
}

}  // namespace guildhall
