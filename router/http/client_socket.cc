#include "router/http/client_socket.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <vector>

namespace guildhall {
namespace {

namespace asio = boost::asio;
constexpr auto kAwaitTuple = asio::as_tuple(asio::use_awaitable);

// What is discarded while lingering: enough for the client that sends a whole oversized body before it reads.
constexpr size_t kMaxLingerBytes = 256 << 20;

// An operation that starts between the deadline and its owner noticing is cancelled this much later.
constexpr std::chrono::milliseconds kDeadlineRepeat{50};

}  // namespace

ClientSocket::ClientSocket(asio::ip::tcp::socket socket, Milliseconds write_timeout)
    : socket_(std::move(socket)),
      deadline_(socket_.get_executor()),
      wake_(socket_.get_executor()),
      write_timeout_(write_timeout) {
  boost::system::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
}

void ClientSocket::arm(Milliseconds timeout) {
  timed_out_ = false;
  uint64_t arming = ++arming_;
  deadline_.expires_after(timeout);
  deadline_.async_wait([self = shared_from_this(), arming](const boost::system::error_code& error) {
    if (!error) self->on_deadline(arming);
  });
}

void ClientSocket::disarm() {
  ++arming_;
  deadline_.cancel();
}

void ClientSocket::on_deadline(uint64_t arming) {
  if (arming != arming_) return;
  timed_out_ = true;
  boost::system::error_code ignored;
  socket_.cancel(ignored);
  deadline_.expires_after(kDeadlineRepeat);
  deadline_.async_wait([self = shared_from_this(), arming](const boost::system::error_code& error) {
    if (!error) self->on_deadline(arming);
  });
}

Task<bool> ClientSocket::write_all(std::string_view bytes) {
  // Nearly always the kernel takes all of it at once: then there is nothing to wait for, and no deadline.
  if (!gone_) {
    boost::system::error_code error;
    bytes.remove_prefix(socket_.write_some(asio::buffer(bytes.data(), bytes.size()), error));
    if (error && error != asio::error::would_block && error != asio::error::try_again) gone_ = true;
  }
  while (!bytes.empty() && !gone_) {
    arm(write_timeout_);
    auto [error, count] =
        co_await socket_.async_write_some(asio::buffer(bytes.data(), bytes.size()), kAwaitTuple);
    disarm();
    if (error) gone_ = true;
    bytes.remove_prefix(count);
  }
  co_return !gone_;
}

Task<size_t> ClientSocket::read_some(char* data, size_t size) {
  if (gone_) co_return 0;
  auto [error, count] = co_await socket_.async_read_some(asio::buffer(data, size), kAwaitTuple);
  co_return error ? 0 : count;
}

Task<bool> ClientSocket::wait(Milliseconds timeout) {
  if (!notified_) {
    wake_.expires_after(timeout);
    co_await wake_.async_wait(kAwaitTuple);
  }
  co_return std::exchange(notified_, false);
}

void ClientSocket::notify() {
  notified_ = true;
  wake_.cancel();
}

std::function<void()> ClientSocket::waker() {
  return [self = weak_from_this(), executor = socket_.get_executor()] {
    asio::post(executor, [self] {
      if (auto socket = self.lock()) socket->notify();
    });
  };
}

void ClientSocket::start_watch(size_t max_early_bytes) {
  max_early_bytes_ = max_early_bytes;
  stop_watch_ = false;
  watching_ = true;
  asio::co_spawn(
      socket_.get_executor(), [self = shared_from_this()] { return self->watch(); }, asio::detached);
}

Task<void> ClientSocket::watch() {
  auto self = shared_from_this();
  std::vector<char> chunk(4096);
  while (!stop_watch_ && !gone_ && early_.size() < max_early_bytes_) {
    auto [error, count] = co_await socket_.async_read_some(
        asio::buffer(chunk.data(), std::min(chunk.size(), max_early_bytes_ - early_.size())), kAwaitTuple);
    early_.append(chunk.data(), count);
    // Stopped, the read is only aborted. An end that it finds then must not be lost: asio sees it once.
    if (error && !(stop_watch_ && error == asio::error::operation_aborted)) {
      gone_ = true;
      boost::system::error_code ignored;
      socket_.cancel(ignored);  // a write that waits for this client
    }
  }
  watching_ = false;
  notify();
}

Task<void> ClientSocket::stop_watch() {
  stop_watch_ = true;
  boost::system::error_code ignored;
  socket_.cancel(ignored);
  while (watching_) co_await wait(std::chrono::hours(1));
}

void ClientSocket::cancel_reads() {
  boost::system::error_code ignored;
  socket_.cancel(ignored);
}

void ClientSocket::cut() {
  gone_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  notify();
}

Task<void> ClientSocket::linger(Milliseconds limit) {
  boost::system::error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  std::vector<char> sink(64 << 10);
  size_t discarded = 0;
  arm(limit);
  while (!timed_out_ && discarded < kMaxLingerBytes) {
    size_t count = co_await read_some(sink.data(), sink.size());
    if (count == 0) break;
    discarded += count;
  }
  disarm();
  gone_ = true;
  socket_.close(ignored);
}

}  // namespace guildhall
