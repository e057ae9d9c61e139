// child_process.h: a process that `guildhall up` started and is responsible for. Dies with its parent.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace guildhall {

class ChildProcess {
 public:
  // Starts argv[0] (a path) in a process group of its own, so that Ctrl-C reaches the parent only.
  static Result<ChildProcess> start(std::string name, const std::vector<std::string>& argv);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // kills what still runs

  const std::string& name() const { return name_; }
  pid_t pid() const { return pid_; }

  // Empty while it runs; then "exited with status 2" or "killed by signal 9".
  std::optional<std::string> poll_exit();
  void signal(int number);
  // Waits for its end up to `grace`, then kills its process group.
  void wait_or_kill(std::chrono::milliseconds grace);

 private:
  ChildProcess(std::string name, pid_t pid) : name_(std::move(name)), pid_(pid) {}
  std::string name_;
  pid_t pid_ = -1;  // -1: ended and reaped
};

}  // namespace guildhall
