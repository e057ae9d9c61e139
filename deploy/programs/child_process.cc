#include "deploy/programs/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <utility>

namespace guildhall {

Result<ChildProcess> ChildProcess::start(std::string name, const std::vector<std::string>& argv) {
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);

  int report[2];  // the child writes errno here when it cannot become the program
  if (pipe2(report, O_CLOEXEC) != 0)
    return Status{Code::internal, fmt::format("{}: pipe: {}", name, strerror(errno))};
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (getppid() == parent) execv(args[0], args.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(report[1], &error, sizeof error);
    _exit(127);
  }
  close(report[1]);
  int error = 0;
  const bool failed = pid < 0 || read(report[0], &error, sizeof error) == sizeof error;
  close(report[0]);
  if (failed) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    return Status{Code::not_found,
                  fmt::format("{}: cannot start {}: {}", name, argv[0], strerror(pid < 0 ? errno : error))};
  }
  return ChildProcess(std::move(name), pid);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)), pid_(std::exchange(other.pid_, -1)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(pid_, other.pid_);
  return *this;
}

ChildProcess::~ChildProcess() { wait_or_kill(std::chrono::milliseconds(0)); }

std::optional<std::string> ChildProcess::poll_exit() {
  if (pid_ < 0) return "ended";
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  pid_ = -1;
  if (WIFSIGNALED(status)) return fmt::format("killed by signal {}", WTERMSIG(status));
  return fmt::format("exited with status {}", WEXITSTATUS(status));
}

void ChildProcess::signal(int number) {
  if (pid_ > 0) kill(pid_, number);
}

void ChildProcess::wait_or_kill(std::chrono::milliseconds grace) {
  const auto deadline = std::chrono::steady_clock::now() + grace;
  while (pid_ > 0 && !poll_exit()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      kill(-pid_, SIGKILL);  // and what it started
      waitpid(pid_, nullptr, 0);
      pid_ = -1;
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace guildhall
