// nccl_process_test.cc: the exchange over NCCL between processes, a hub and its members: every size, a killed
// member, a stopped one. Over the stand-in (label cuda), and over the real NCCL on a GPU (label gpu), where
// ranks share the one device: NCCL allows that to processes that it takes for different hosts.
//
// The test's own process only forks, so that no child inherits a used CUDA. What fails in the hub's process
// is printed there and is its exit status.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/nccl/nccl_harness.h"

namespace guildhall {
namespace {

constexpr int kMembers = 3;

std::unique_ptr<Exchange> open_end(bool is_hub, int host) {
  setenv("NCCL_HOSTID", ("guildhall-test-" + std::to_string(host)).c_str(), 1);
  setenv("NCCL_SOCKET_IFNAME", "lo", 1);
  setenv("NCCL_IB_DISABLE", "1", 1);
  NcclOptions options = nccl_test_options(is_hub);
  options.deadline = std::chrono::seconds(2);
  options.join_deadline = std::chrono::seconds(10);
  return open_nccl(options, open_ucx(tcp_options()));
}

void write_text(int fd, const std::string& text) {
  const auto size = static_cast<uint32_t>(text.size());
  ASSERT_EQ(write(fd, &size, sizeof size), static_cast<ssize_t>(sizeof size));
  ASSERT_EQ(write(fd, text.data(), size), static_cast<ssize_t>(size));
}

std::string read_text(int fd) {
  uint32_t size = 0;
  if (recv(fd, &size, sizeof size, MSG_WAITALL) != sizeof size) return "";
  std::string text(size, '\0');
  return recv(fd, text.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size) ? text : "";
}

void send_copy(Exchange& exchange, PeerId peer, std::span<const std::byte> bytes) {
  auto region = exchange.acquire(peer, bytes.size());
  if (!region) return;
  std::copy(bytes.begin(), bytes.end(), region->begin());
  const Exchange::Outgoing outgoing{peer, bytes.size()};
  exchange.post({&outgoing, 1});
}

// Sends every frame back until its socket closes.
void run_member(int socket, int host) {
  struct Echo final : ExchangeHandler {
    explicit Echo(Exchange& exchange) : exchange_(exchange) {}
    void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
      send_copy(exchange_, peer, bytes);
    }
    void on_peer_lost(PeerId, const Status&) override {}
    Exchange& exchange_;
  };
  auto exchange = open_end(false, host);
  write_text(socket, exchange->local_address());
  const auto hub = exchange->connect("hub", read_text(socket));
  if (!hub) return;
  send_copy(*exchange, *hub, {});  // so that the hub has heard of it
  Echo echo(*exchange);
  fcntl(socket, F_SETFL, O_NONBLOCK);
  for (char byte; read(socket, &byte, 1) != 0;) {
    exchange->wait(std::chrono::milliseconds(20));
    exchange->poll(echo);
  }
}

class NcclProcess : public testing::Test {
 protected:
  struct Member {
    pid_t pid = -1;
    int socket = -1;
    PeerId peer = 0;
  };

  void SetUp() override {
    for (int m = 0; m < kMembers; ++m) {
      int sockets[2];
      ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
      members_[m].socket = sockets[0];
      members_[m].pid = fork();
      if (members_[m].pid != 0) {
        close(sockets[1]);
        continue;
      }
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (int other = 0; other <= m; ++other) close(members_[other].socket);
      run_member(sockets[1], m + 1);
      _exit(0);
    }
  }
  void TearDown() override {
    for (Member& member : members_) {
      close(member.socket);
      kill(member.pid, SIGCONT);
      waitpid(member.pid, nullptr, 0);
    }
  }

  // Runs `scenario` in the hub's process, all members joined.
  void as_hub(const std::function<void()>& scenario) {
    const pid_t hub = fork();
    if (hub == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      exchange_ = open_end(true, 0);
      for (Member& member : members_) {
        const auto peer = exchange_->connect("member", read_text(member.socket));
        member.peer = peer ? *peer : 0;
        write_text(member.socket, exchange_->local_address());
      }
      await_joined({0, 1, 2});
      if (!HasFailure()) scenario();
      exchange_.reset();
      std::fflush(stdout);
      _exit(HasFailure() ? 1 : 0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(hub, &status, 0), hub);
    EXPECT_EQ(status, 0) << "the hub's process says why";
  }

  bool until(const std::function<bool()>& done) {
    const auto deadline = Clock::now() + std::chrono::seconds(60);
    while (!done()) {
      if (Clock::now() > deadline) return false;
      exchange_->wait(std::chrono::milliseconds(5));
      exchange_->poll(recorder_);
    }
    return true;
  }
  void await_joined(const std::vector<int>& members) {
    ASSERT_TRUE(until([&] {
      for (int m : members)
        if (!exchange_->describe(members_[m].peer).starts_with("nccl, ")) return false;
      return true;
    })) << "no communicator came up";
  }
  void ping(const std::vector<int>& members, size_t bytes) {
    ++seed_;
    std::map<int, size_t> before;
    for (int m : members) {
      before[m] = recorder_.frames[members_[m].peer].size();
      send_frame(*exchange_, members_[m].peer, bytes, seed_ * 10 + static_cast<uint64_t>(m));
    }
    ASSERT_TRUE(until([&] {
      for (int m : members)
        if (recorder_.frames[members_[m].peer].size() == before[m]) return false;
      return true;
    })) << bytes;
    for (int m : members)
      ASSERT_EQ(recorder_.frames[members_[m].peer].back(),
                pattern(bytes, seed_ * 10 + static_cast<uint64_t>(m)))
          << bytes;
  }
  const NcclExchange::Counters& counters() { return dynamic_cast<NcclExchange&>(*exchange_).counters(); }

  Member members_[kMembers];
  std::unique_ptr<Exchange> exchange_;  // the hub's
  Recorder recorder_;
  uint64_t seed_ = 0;
};

TEST_F(NcclProcess, PingPongsEverySize) {
  as_hub([this] {
    for (size_t bytes : {1, 100, 14336, 1 << 20, 8 << 20, 3, 14336})
      ASSERT_NO_FATAL_FAILURE(ping({0, 1, 2}, bytes));
    EXPECT_GT(counters().sent_over_nccl, 0u);
    EXPECT_GT(counters().received_over_nccl, 0u);
  });
}

TEST_F(NcclProcess, AKilledMemberIsReportedAndTheOthersGoOn) {
  as_hub([this] {
    ASSERT_NO_FATAL_FAILURE(ping({0, 1, 2}, 50000));
    for (size_t i = 0; i < 4; ++i) send_frame(*exchange_, members_[1].peer, 1 << 20, i);
    kill(members_[1].pid, SIGKILL);
    for (int i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(ping({0, 2}, 100000));
    ASSERT_TRUE(until([&] { return recorder_.lost.contains(members_[1].peer); }));
    ASSERT_NO_FATAL_FAILURE(await_joined({0, 2}));
    const uint64_t before = counters().sent_over_nccl;
    ASSERT_NO_FATAL_FAILURE(ping({0, 2}, 100000));
    EXPECT_GT(counters().sent_over_nccl, before);
  });
}

TEST_F(NcclProcess, AStoppedMemberStopsNobody) {
  as_hub([this] {
    ASSERT_NO_FATAL_FAILURE(ping({0, 1, 2}, 50000));
    kill(members_[1].pid, SIGSTOP);
    send_frame(*exchange_, members_[1].peer, 1 << 20, 7);
    for (int i = 0; i < 3; ++i) ASSERT_NO_FATAL_FAILURE(ping({0, 2}, 100000));
    const size_t before = recorder_.frames[members_[1].peer].size();
    kill(members_[1].pid, SIGCONT);
    ASSERT_TRUE(until([&] {
      return recorder_.lost.contains(members_[1].peer) || recorder_.frames[members_[1].peer].size() > before;
    }));
    ASSERT_NO_FATAL_FAILURE(ping({0, 2}, 100000));
  });
}

}  // namespace
}  // namespace guildhall
