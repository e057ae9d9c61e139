// fleet.h: the child processes of one `guildhall up`: starts them workers first, watches them, starts a lost
// one again once it had been serving, stops the routers before their workers.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "deploy/programs/child_process.h"
#include "deploy/programs/hosts.h"

namespace guildhall {

class Fleet {
 public:
  Fleet(std::filesystem::path config_file, std::filesystem::path program_dir);

  Result<void> start(const config::Config& config, const HostPlan& plan);
  // Looks at every child. Before `serving`, an end is an error; afterwards the child is started again, at
  // most kMaxRestarts times within kRestartWindow.
  Result<void> watch(bool serving);
  void signal(int number);  // to every child
  void stop();

  // "w0 (pid 4711), r0 (pid 4712)"
  std::string describe() const;

 private:
  struct Member {
    std::string name;
    bool is_router = false;
    ChildProcess process;
    std::vector<Clock::time_point> restarts;
  };
  Result<ChildProcess> launch(const std::string& name, bool is_router) const;
  Result<void> restart(Member& member, const std::string& how_it_ended);

  std::filesystem::path config_file_, program_dir_;
  std::vector<Member> members_;
};

inline constexpr size_t kMaxRestarts = 5;
inline constexpr std::chrono::minutes kRestartWindow{5};

}  // namespace guildhall
