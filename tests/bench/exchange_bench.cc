// exchange_bench.cc: what the exchange costs between two processes: one-way latency (half of a ping-pong) and
// goodput (a window of frames in flight), per frame size, transport and way of waiting.
//
//   exchange_bench [TLS...]     default: tcp, then shared memory
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "transport/ucx_exchange.h"

namespace guildhall {
namespace {

// 14 KiB: one row of DeepSeek-V3 (7168 in bf16).
constexpr size_t kFrameBytes[] = {8, 1024, 14336, 131072, 1 << 20, 16 << 20};
constexpr std::chrono::milliseconds kTimePerFigure{500};
constexpr size_t kWindow = 16;

class Side : public ExchangeHandler {
 public:
  Side(const UcxOptions& options, int socket) : exchange_(open(options)) {
    const std::string mine = exchange_->local_address();
    const size_t my_size = mine.size();
    check(write(socket, &my_size, sizeof my_size) == sizeof my_size);
    check(write(socket, mine.data(), mine.size()) == static_cast<ssize_t>(mine.size()));
    size_t size = 0;
    check(recv(socket, &size, sizeof size, MSG_WAITALL) == sizeof size);
    std::string theirs(size, '\0');
    check(recv(socket, theirs.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size));
    auto peer = exchange_->connect("other", theirs);
    check(peer.has_value());
    peer_ = *peer;
  }

  void send(size_t bytes) {
    auto region = exchange_->acquire(peer_, bytes);
    check(region.has_value());
    // Packing is part of sending: the receiver would otherwise be served from the sender's cold pages.
    std::memset(region->data(), 1, bytes);
    const Exchange::Outgoing outgoing{peer_, bytes};
    exchange_->post({&outgoing, 1});
  }
  void receive_until(size_t num_frames) {
    while (num_received_ < num_frames) {
      if (exchange_->poll(*this) == 0) exchange_->wait(std::chrono::seconds(10));
    }
  }
  // The other process: per frame size, echoes until an empty frame, then answers each window until an empty
  // frame. The answer is the flow control, and makes the goodput count only what arrived.
  void echo() {
    echoing_ = true;
    while (num_phases_ < 2 * std::size(kFrameBytes)) receive_until(num_received_ + 1);
  }
  std::string describe() const { return exchange_->describe(peer_); }
  size_t received() const { return num_received_; }

  void on_frame(PeerId, std::span<const std::byte> bytes) override {
    ++num_received_;
    if (!echoing_) return;
    if (bytes.empty()) {
      ++num_phases_;
      num_in_window_ = 0;
    } else if (num_phases_ % 2 == 0) {
      send(bytes.size());
    } else if (++num_in_window_ % kWindow == 0) {
      send(8);
    }
  }
  void on_peer_lost(PeerId, const Status& why) override {
    fmt::print(stderr, "exchange_bench: {}\n", to_string(why));
    std::exit(1);
  }

 private:
  static std::unique_ptr<UcxExchange> open(const UcxOptions& options) {
    auto exchange = UcxExchange::open(options);
    if (!exchange) fmt::print(stderr, "exchange_bench: {}\n", to_string(exchange.error()));
    check(exchange.has_value());
    return std::move(*exchange);
  }
  static void check(bool fine) {
    if (!fine) std::exit(1);
  }

  std::unique_ptr<UcxExchange> exchange_;
  PeerId peer_;
  size_t num_received_ = 0;
  bool echoing_ = false;
  size_t num_phases_ = 0, num_in_window_ = 0;  // echoing
};

void measure(Side& side, const std::string& title) {
  fmt::print("{} ({})\n{:>12}{:>14}{:>14}{:>14}\n", side.describe(), title, "frame B", "one-way us", "p99 us",
             "goodput GB/s");
  for (size_t bytes : kFrameBytes) {
    std::vector<double> half_us;
    for (auto end = Clock::now() + kTimePerFigure; Clock::now() < end;) {
      const int64_t start = now_ns();
      side.send(bytes);
      side.receive_until(side.received() + 1);
      half_us.push_back(static_cast<double>(now_ns() - start) / 2e3);
    }
    side.send(0);

    const size_t before = side.received();
    size_t num_windows = 0;
    const int64_t start = now_ns();
    for (auto end = Clock::now() + kTimePerFigure; Clock::now() < end; ++num_windows) {
      for (size_t k = 0; k < kWindow; ++k) side.send(bytes);
      side.receive_until(before + num_windows);  // two windows in flight
    }
    side.receive_until(before + num_windows);
    const double seconds = static_cast<double>(now_ns() - start) / 1e9;
    side.send(0);
    std::sort(half_us.begin(), half_us.end());
    fmt::print("{:>12}{:>14.2f}{:>14.2f}{:>14.3f}\n", bytes, half_us[half_us.size() / 2],
               half_us[half_us.size() * 99 / 100],
               static_cast<double>(bytes * kWindow * num_windows) / seconds / 1e9);
    std::fflush(stdout);
  }
}

void run(const UcxOptions& options, const std::string& title) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) std::exit(1);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    {
      Side side(options, sockets[1]);
      side.echo();
    }
    _exit(0);
  }
  {
    Side side(options, sockets[0]);
    measure(side, title);
  }
  waitpid(child, nullptr, 0);
  close(sockets[0]);
  close(sockets[1]);
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  using namespace guildhall;
  init_log("exchange_bench", "warn");
  std::vector<std::string> transports(argv + 1, argv + argc);
  if (transports.empty()) transports = {"tcp", "posix,sysv,cma"};
  for (const std::string& tls : transports) {
    UcxOptions options{.tls = tls};
    run(options, "adaptive, 20 us spin");
    options.wait.spin = std::chrono::nanoseconds(0);
    run(options, "adaptive, no spin");
    options.wait.mode = WaitMode::spin;
    run(options, "spin");
  }
}
