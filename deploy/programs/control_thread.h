// control_thread.h: the io_context of a process's control plane, its thread, and the signals: those that end
// the process, SIGHUP, on which it reads its configuration again, and SIGUSR2, on which it writes its trace.
#pragma once

#include <functional>
#include <memory>

namespace boost::asio {
class io_context;
}

namespace guildhall {

class ControlThread {
 public:
  // Called on the thread: `on_signal` for each SIGTERM or SIGINT, `on_reload` for each SIGHUP.
  ControlThread(std::function<void()> on_signal, std::function<void()> on_reload);
  ~ControlThread();  // stop()

  boost::asio::io_context& io();
  void start();
  void stop();  // runs what is due within a moment, then ends the thread

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace guildhall
