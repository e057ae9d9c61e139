// ucx_process_test.cc: UCX between processes: every size, a killed peer, a stuck peer, another network
// namespace. The parent forks its echoing children before it opens UCX itself.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/transport/exchange_harness.h"

namespace guildhall {
namespace {

void write_all(int fd, const void* data, size_t size) {
  ASSERT_EQ(write(fd, data, size), static_cast<ssize_t>(size));
}

void write_text(int fd, const std::string& text) {
  const uint32_t size = static_cast<uint32_t>(text.size());
  write_all(fd, &size, sizeof size);
  write_all(fd, text.data(), size);
}

std::string read_text(int fd) {
  uint32_t size = 0;
  if (recv(fd, &size, sizeof size, MSG_WAITALL) != sizeof size) return "";
  std::string text(size, '\0');
  return recv(fd, text.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size) ? text : "";
}

class Echo : public ExchangeHandler {
 public:
  explicit Echo(Exchange& exchange) : exchange_(exchange) {}
  void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
    auto region = exchange_.acquire(peer, bytes.size());
    if (!region) return;
    std::copy(bytes.begin(), bytes.end(), region->begin());
    const Exchange::Outgoing outgoing{peer, bytes.size()};
    exchange_.post({&outgoing, 1});
  }
  void on_peer_lost(PeerId, const Status&) override {}

 private:
  Exchange& exchange_;
};

// A process that sends every frame back until its socket closes.
class EchoProcess {
 public:
  EchoProcess(const UcxOptions& options, bool own_network_namespace = false) {
    int sockets[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(sockets[0]);
      // Where the system forbids it, the test still runs, in the one namespace.
      if (own_network_namespace && unshare(CLONE_NEWNET) != 0) perror("unshare");
      run(sockets[1], options);
      _exit(0);
    }
    close(sockets[1]);
    socket_ = sockets[0];
  }
  ~EchoProcess() {
    close(socket_);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }

  PeerId meet(Exchange& exchange, const std::string& name) {
    auto peer = exchange.connect(name, read_text(socket_));
    if (!peer) ADD_FAILURE() << to_string(peer.error());
    write_text(socket_, exchange.local_address());
    return *peer;
  }

  void stop() { kill(pid_, SIGSTOP); }
  // Reaped as well: a zombie still looks alive to shared memory transports.
  void kill_and_reap() {
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, -1), nullptr, 0);
  }

 private:
  static void run(int socket, const UcxOptions& options) {
    auto exchange = UcxExchange::open(options);
    if (!exchange) return;
    write_text(socket, (*exchange)->local_address());
    if (!(*exchange)->connect("parent", read_text(socket))) return;
    Echo echo(**exchange);
    fcntl(socket, F_SETFL, O_NONBLOCK);
    for (char byte; read(socket, &byte, 1) != 0;) {
      (*exchange)->wait(std::chrono::milliseconds(20));
      (*exchange)->poll(echo);
    }
  }

  pid_t pid_;
  int socket_;
};

struct Setup {
  std::string name;
  UcxOptions options;
};
void PrintTo(const Setup& setup, std::ostream* out) { *out << setup.name; }

class UcxProcess : public testing::TestWithParam<Setup> {
 protected:
  bool until(const std::function<bool()>& done) { return drive({{exchange_.get(), &recorder_}}, done); }

  // Sends and takes the echo, sleeping in wait() as a server does.
  void ping(PeerId peer, size_t size, uint64_t seed) {
    const size_t before = recorder_.frames[peer].size();
    send_frame(*exchange_, peer, size, seed);
    const auto deadline = Clock::now() + std::chrono::seconds(60);
    while (recorder_.frames[peer].size() == before) {
      ASSERT_LT(Clock::now(), deadline);
      exchange_->wait(std::chrono::seconds(1));
      exchange_->poll(recorder_);
    }
    ASSERT_EQ(recorder_.frames[peer].back(), pattern(size, seed)) << size;
  }

  std::unique_ptr<Exchange> exchange_;
  Recorder recorder_;
};

TEST_P(UcxProcess, PingPongsEverySize) {
  EchoProcess child(GetParam().options);
  exchange_ = open_ucx(GetParam().options);
  const PeerId peer = child.meet(*exchange_, "child");
  std::printf("%s\n", exchange_->describe(peer).c_str());
  uint64_t seed = 0;
  for (size_t size : {0, 1, 8, 14336, 1 << 20, 64 << 20, 3, 14336})
    ASSERT_NO_FATAL_FAILURE(ping(peer, size, ++seed));
}

TEST_P(UcxProcess, AKilledPeerIsReportedAndOthersGoOn) {
  EchoProcess doomed(GetParam().options), other(GetParam().options);
  exchange_ = open_ucx(GetParam().options);
  const PeerId to_doomed = doomed.meet(*exchange_, "doomed"), to_other = other.meet(*exchange_, "other");
  ASSERT_NO_FATAL_FAILURE(ping(to_doomed, 100, 1));
  ASSERT_NO_FATAL_FAILURE(ping(to_other, 100, 2));

  for (int i = 0; i < 20; ++i) send_frame(*exchange_, to_doomed, i % 2 ? 1 << 20 : 5000, i);
  doomed.kill_and_reap();
  ASSERT_TRUE(until([&] { return recorder_.lost.contains(to_doomed); }));
  EXPECT_NE(recorder_.lost[to_doomed].message.find("doomed"), std::string::npos);
  EXPECT_FALSE(exchange_->acquire(to_doomed, 8));
  for (int i = 0; i < 20; ++i) ASSERT_NO_FATAL_FAILURE(ping(to_other, 14336 * i, i));
  exchange_->disconnect(to_doomed);
  ASSERT_NO_FATAL_FAILURE(ping(to_other, 1 << 20, 3));
}

TEST_P(UcxProcess, AKilledPeerWakesAnIdleWaiter) {
  EchoProcess doomed(GetParam().options);
  exchange_ = open_ucx(GetParam().options);
  const PeerId peer = doomed.meet(*exchange_, "doomed");
  ASSERT_NO_FATAL_FAILURE(ping(peer, 100, 1));
  doomed.kill_and_reap();
  while (recorder_.lost.empty()) {
    exchange_->wait(std::chrono::hours(1));
    exchange_->poll(recorder_);
  }
}

TEST_P(UcxProcess, LeavingAStuckPeerDoesNotHang) {
  EchoProcess stuck(GetParam().options);
  exchange_ = open_ucx(GetParam().options);
  const PeerId peer = stuck.meet(*exchange_, "stuck");
  ASSERT_NO_FATAL_FAILURE(ping(peer, 100, 1));
  stuck.stop();
  for (int i = 0; i < 100; ++i) send_frame(*exchange_, peer, i % 2 ? 1 << 20 : 5000, i);
  for (int i = 0; i < 100; ++i) exchange_->poll(recorder_);
  const auto start = Clock::now();
  exchange_->disconnect(peer);
  exchange_.reset();
  // Two limits of half a second each; the rest is for a busy machine.
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(10));
  stuck.kill_and_reap();
}

INSTANTIATE_TEST_SUITE_P(Transports, UcxProcess,
                         testing::Values(Setup{"tcp", tcp_options()}, Setup{"shm", shared_memory_options()},
                                         Setup{"automatic",
                                               UcxOptions{.keepalive = std::chrono::milliseconds(100)}}),
                         [](const auto& info) { return info.param.name; });

// Shared memory may join two network namespaces of one machine, but its wake-ups do not cross: wait() must
// not sleep through frames.
TEST(UcxNamespaces, FramesAreSeenAcrossNetworkNamespaces) {
  const UcxOptions options = shared_memory_options();
  EchoProcess child(options, /*own_network_namespace=*/true);
  auto exchange = open_ucx(options);
  const PeerId peer = child.meet(*exchange, "child");
  Recorder recorder;
  for (size_t i = 0; i < 200; ++i) {
    send_frame(*exchange, peer, 8, i);
    while (recorder.num_frames <= i) {
      exchange->wait(std::chrono::hours(1));
      exchange->poll(recorder);
    }
  }
}

}  // namespace
}  // namespace guildhall
