#include "deploy/programs/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ChildProcess start(const std::vector<std::string>& argv) { return ChildProcess::start("w0", argv).value(); }

std::string wait_for_exit(ChildProcess& child) {
  for (;;) {
    if (auto how = child.poll_exit()) return *how;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// The read end ends when every process that has the write end is gone.
struct Pipe {
  Pipe() {
    if (pipe(ends) != 0) throw std::runtime_error("pipe");
  }
  ~Pipe() {
    close(ends[0]);
    close_write();
  }
  void close_write() {
    if (ends[1] >= 0) close(ends[1]);
    ends[1] = -1;
  }
  bool is_at_end() {
    char byte;
    return read(ends[0], &byte, 1) == 0;
  }
  int ends[2];
};

TEST(ChildProcess, SaysWhatCouldNotBeStarted) {
  for (const char* path : {"/nonexistent/guildhall-expert", "/etc/passwd"}) {
    const auto child = ChildProcess::start("w0", {path});
    ASSERT_TRUE(child.has_error());
    EXPECT_EQ(child.error().code, Code::not_found);
    EXPECT_THAT(child.error().message, AllOf(HasSubstr("w0"), HasSubstr(path)));
  }
}

TEST(ChildProcess, TellsTheExitStatus) {
  ChildProcess fine = start({"/bin/sh", "-c", "exit 0"});
  EXPECT_EQ(wait_for_exit(fine), "exited with status 0");
  ChildProcess failed = start({"/bin/sh", "-c", "exit 3"});
  EXPECT_EQ(wait_for_exit(failed), "exited with status 3");
  EXPECT_EQ(failed.poll_exit(), "ended");
  EXPECT_EQ(failed.pid(), -1);
}

TEST(ChildProcess, RunsUntilItIsSignalled) {
  ChildProcess child = start({"/bin/sleep", "600"});
  EXPECT_EQ(child.name(), "w0");
  EXPECT_GT(child.pid(), 0);
  EXPECT_FALSE(child.poll_exit().has_value());
  child.signal(SIGTERM);
  EXPECT_EQ(wait_for_exit(child), "killed by signal 15");
  child.signal(SIGTERM);  // to nobody
}

TEST(ChildProcess, TellsADeathBySignal) {
  ChildProcess child = start({"/bin/sh", "-c", "kill -9 $$"});
  EXPECT_EQ(wait_for_exit(child), "killed by signal 9");
}

TEST(ChildProcess, HasAProcessGroupOfItsOwn) {
  ChildProcess child = start({"/bin/sleep", "600"});
  EXPECT_EQ(getpgid(child.pid()), child.pid());
}

TEST(ChildProcess, ItsOwnersEndKillsIt) {
  Pipe pipe;
  {
    const ChildProcess child = start({"/bin/sleep", "600"});  // inherits the pipe
    pipe.close_write();
  }
  EXPECT_TRUE(pipe.is_at_end());
}

TEST(ChildProcess, MovesLeaveOneOwner) {
  ChildProcess first = start({"/bin/sleep", "600"});
  const pid_t pid = first.pid();
  ChildProcess second = std::move(first);
  EXPECT_EQ(second.pid(), pid);
  EXPECT_EQ(kill(pid, 0), 0);
  second = start({"/bin/sh", "-c", "exit 4"});
  EXPECT_EQ(wait_for_exit(second), "exited with status 4");
}

TEST(ChildProcess, IsKilledWhenItDoesNotEndInTime) {
  Pipe ready;
  const std::string say_ready = "echo > /proc/self/fd/" + std::to_string(ready.ends[1]);
  ChildProcess stubborn =
      start({"/bin/sh", "-c", "trap '' TERM; " + say_ready + "; while :; do sleep 600; done"});
  char byte;
  ASSERT_EQ(read(ready.ends[0], &byte, 1), 1);
  stubborn.signal(SIGTERM);
  stubborn.wait_or_kill(std::chrono::milliseconds(30));
  EXPECT_EQ(stubborn.poll_exit(), "ended");

  ChildProcess willing = start({"/bin/sleep", "600"});
  willing.signal(SIGTERM);
  willing.wait_or_kill(std::chrono::minutes(1));
  EXPECT_EQ(willing.poll_exit(), "ended");
}

TEST(ChildProcess, DiesWithItsParent) {
  Pipe pipe;
  const pid_t parent = fork();
  if (parent == 0) {
    const auto child = ChildProcess::start("w0", {"/bin/sleep", "600"});
    _exit(child.has_value() ? 0 : 1);  // without destructors
  }
  int status = -1;
  ASSERT_EQ(waitpid(parent, &status, 0), parent);
  ASSERT_EQ(status, 0);
  pipe.close_write();
  EXPECT_TRUE(pipe.is_at_end());
}

}  // namespace
}  // namespace guildhall
