#include "deploy/programs/fleet.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>

#include "base/log.h"
#include "base/units.h"

namespace guildhall {
namespace {
constexpr std::chrono::seconds kRouterGrace{35};  // its own drain limit and a little
constexpr std::chrono::seconds kWorkerGrace{5};
}  // namespace

Fleet::Fleet(std::filesystem::path config_file, std::filesystem::path program_dir)
    : config_file_(std::move(config_file)), program_dir_(std::move(program_dir)) {}

Result<void> Fleet::start(const config::Config& config, const HostPlan& plan) {
  const auto add = [&](const std::string& name, bool is_router) -> Result<void> {
    GH_ASSIGN(ChildProcess process, launch(name, is_router));
    members_.push_back({name, is_router, std::move(process), {}});
    return {};
  };
  for (const int worker : plan.workers) GH_TRY(add(config.experts().workers(worker).name(), false));
  for (const RouterOfFile& router : plan.routers) GH_TRY(add(router.settings.name(), true));
  return {};
}

Result<ChildProcess> Fleet::launch(const std::string& name, bool is_router) const {
  const auto program = program_dir_ / (is_router ? "guildhall-router" : "guildhall-expert");
  return ChildProcess::start(name, {program.string(), "--config", config_file_.string(), "--name", name});
}

Result<void> Fleet::watch(bool serving) {
  for (Member& member : members_) {
    const auto ended = member.process.poll_exit();
    if (!ended) continue;
    if (!serving)
      return Status{Code::unavailable, fmt::format("{} {} before it was ready", member.name, *ended)};
    GH_TRY(restart(member, *ended));
  }
  return {};
}

Result<void> Fleet::restart(Member& member, const std::string& how_it_ended) {
  const auto now = Clock::now();
  std::erase_if(member.restarts, [&](Clock::time_point t) { return now - t > kRestartWindow; });
  if (member.restarts.size() >= kMaxRestarts)
    return Status{Code::unavailable,
                  fmt::format("{} {} and was started again {} times within {}", member.name, how_it_ended,
                              kMaxRestarts, format_duration(kRestartWindow))};
  member.restarts.push_back(now);
  log_warn("restarting", "process={} reason=\"{}\"", member.name, how_it_ended);
  GH_ASSIGN(member.process, launch(member.name, member.is_router));
  return {};
}

void Fleet::signal(int number) {
  for (Member& member : members_) member.process.signal(number);
}

void Fleet::stop() {
  for (const bool routers : {true, false}) {
    for (Member& m : members_)
      if (m.is_router == routers) m.process.signal(SIGTERM);
    for (Member& m : members_)
      if (m.is_router == routers) m.process.wait_or_kill(routers ? kRouterGrace : kWorkerGrace);
  }
}

std::string Fleet::describe() const {
  std::string text;
  for (const Member& m : members_)
    text += fmt::format("{}{} (pid {})", text.empty() ? "" : ", ", m.name, m.process.pid());
  return text;
}

}  // namespace guildhall
