// client_socket.h: one client's TCP connection: writes and reads with deadlines, a wake-up from other
// threads, and a watch that notices the client leaving while it waits for an answer.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace guildhall {

template <class T>
using Task = boost::asio::awaitable<T>;

// Everything but waker() runs on the socket's strand. One coroutine (the connection's) owns it; the watch is
// a second one on the same strand, which only reads.
class ClientSocket : public std::enable_shared_from_this<ClientSocket> {
 public:
  using Milliseconds = std::chrono::milliseconds;
  ClientSocket(boost::asio::ip::tcp::socket socket, Milliseconds write_timeout);

  boost::asio::ip::tcp::socket& stream() { return socket_; }
  bool gone() const { return gone_; }  // the client left, stopped reading, or was cut

  // Pending operations are cancelled once the deadline passes, and so is any that starts later, until
  // disarm().
  void arm(Milliseconds timeout);
  void disarm();
  bool timed_out() const { return timed_out_; }  // since the last arm()

  // Hands all bytes to the kernel, the first attempt in one call. False: the client is gone.
  Task<bool> write_all(std::string_view bytes);
  // One read of at most `size` bytes; 0: end, error or the armed deadline.
  Task<size_t> read_some(char* data, size_t size);

  // Returns true once notified (also if it happened before), false after `timeout`. The notification is
  // consumed.
  Task<bool> wait(Milliseconds timeout);
  void notify();
  // notify() from any thread; may be called after the socket is gone, but not after its io_context is.
  std::function<void()> waker();

  // Reads ahead in the background, keeping what comes for take_early(); end of input or an error makes the
  // client gone and notifies. With max_early_bytes waiting it stops reading; only writes notice then. A
  // client that half-closes counts as gone, as it cannot be told from one that left.
  void start_watch(size_t max_early_bytes);
  Task<void> stop_watch();
  std::string take_early() { return std::exchange(early_, {}); }

  void cancel_reads();  // wakes the owner from an idle read
  void cut();           // closes; every operation ends and gone() holds
  // Closes so that the client sees what was written: sends FIN, then discards input until the client closes.
  Task<void> linger(Milliseconds limit);

 private:
  Task<void> watch();
  void on_deadline(uint64_t arming);

  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer deadline_, wake_;
  Milliseconds write_timeout_;
  size_t max_early_bytes_ = 0;
  std::string early_;    // read ahead of its turn, at most max_early_bytes_
  uint64_t arming_ = 0;  // tells a stale timer's call from a current one
  bool timed_out_ = false, gone_ = false, notified_ = false;
  bool watching_ = false, stop_watch_ = false;
};

}  // namespace guildhall
