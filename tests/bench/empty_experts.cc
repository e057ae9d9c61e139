#include "tests/bench/empty_experts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "proto/codec.h"
#include "tests/bench/pin.h"

namespace guildhall {
namespace {

void check(bool fine, const char* what) {
  if (fine) return;
  fmt::print(stderr, "exchange_bench: {}\n", what);
  std::_Exit(1);
}

void write_text(int fd, const std::string& text) {
  const size_t size = text.size();
  check(write(fd, &size, sizeof size) == sizeof size, "write");
  check(write(fd, text.data(), size) == static_cast<ssize_t>(size), "write");
}

std::string read_text(int fd) {
  size_t size = 0;
  check(recv(fd, &size, sizeof size, MSG_WAITALL) == sizeof size, "a worker ended");
  std::string text(size, '\0');
  check(recv(fd, text.data(), size, MSG_WAITALL) == static_cast<ssize_t>(size), "a worker ended");
  return text;
}

// Answers each pair, or each row of a reduced combine, with the row itself.
class Mirror : public ExchangeHandler {
 public:
  Mirror(Exchange& exchange, bool copies_rows) : exchange_(exchange), copies_rows_(copies_rows) {}

  void on_frame(PeerId peer, std::span<const std::byte> bytes) override {
    const Result<DispatchView> dispatch = decode_dispatch(bytes);
    check(dispatch.has_value(), "a bad dispatch");
    const FrameShape shape = answer_shape(dispatch->header);
    const auto region = exchange_.acquire(peer, frame_layout(shape).total_bytes);
    check(region.has_value(), "no room for an answer");
    const FrameSections answer = begin_combine(answer_fields(dispatch->header), shape, *region);
    check(answer.row_bytes == dispatch->row_bytes, "rows of another codec");
    const bool reduced = combine_of(dispatch->header) == Combine::reduced;
    for (size_t i = 0; copies_rows_ && i < shape.num_rows; ++i)
      std::memcpy(answer.row(i), dispatch->row(reduced ? i : dispatch->pairs[i].row), answer.row_bytes);
    const Exchange::Outgoing reply{peer, answer.total_bytes};
    exchange_.post({&reply, 1});
  }
  void on_peer_lost(PeerId, const Status&) override { std::_Exit(0); }

 private:
  Exchange& exchange_;
  const bool copies_rows_;
};

void serve(int socket, const EmptyExperts::Options& options) {
  auto exchange = UcxExchange::open(options.ucx);
  check(exchange.has_value(), "UCX does not open");
  write_text(socket, (*exchange)->local_address());
  check((*exchange)->connect("router", read_text(socket)).has_value(), "no connection to the router");
  write_text(socket, "ready");
  Mirror mirror(**exchange, options.copies_rows);
  fcntl(socket, F_SETFL, O_NONBLOCK);
  int idle = 0;
  for (char byte;;) {
    if ((*exchange)->poll(mirror) > 0) continue;
    (*exchange)->wait(std::chrono::milliseconds(20));
    if (++idle % 64 == 0 && read(socket, &byte, 1) == 0) return;  // the bench is over
  }
}

}  // namespace

EmptyExperts::EmptyExperts(const Options& options) {
  for (int i = 0; i < options.num_workers; ++i) {
    int sockets[2];
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "socketpair");
    const pid_t pid = fork();
    check(pid >= 0, "fork");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(sockets[0]);
      for (const Process& other : processes_) close(other.socket);
      if (options.pinned) pin_to_core(i + 1);
      serve(sockets[1], options);
      std::_Exit(0);
    }
    close(sockets[1]);
    processes_.push_back({pid, sockets[0]});
  }
}

EmptyExperts::~EmptyExperts() {
  for (const Process& process : processes_) {
    close(process.socket);
    kill(process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
  }
}

std::vector<PeerId> EmptyExperts::meet(Exchange& exchange) {
  std::vector<PeerId> peers;
  for (const Process& process : processes_) {
    const auto peer = exchange.connect(fmt::format("w{}", peers.size()), read_text(process.socket));
    check(peer.has_value(), "no connection to a worker");
    peers.push_back(*peer);
    write_text(process.socket, exchange.local_address());
    check(read_text(process.socket) == "ready", "a worker ended");
  }
  return peers;
}

}  // namespace guildhall
