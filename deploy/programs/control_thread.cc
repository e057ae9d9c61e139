#include "deploy/programs/control_thread.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <thread>

#include "base/log.h"
#include "base/trace.h"

namespace guildhall {
namespace {
constexpr std::chrono::milliseconds kLastWords{200};  // for goodbyes that are queued on links
}

struct ControlThread::Impl {
  Impl(std::function<void()> on_signal_, std::function<void()> on_reload_)
      : on_signal(std::move(on_signal_)), on_reload(std::move(on_reload_)) {
    signals.add(SIGHUP);
    signals.add(SIGUSR2);
  }

  void wait_for_signal() {
    signals.async_wait([this](const boost::system::error_code& error, int signal) {
      if (error) return;
      if (signal == SIGUSR2)
        write_trace_now();
      else if (signal == SIGHUP)
        on_reload();
      else
        on_signal();
      wait_for_signal();
    });
  }

  static void write_trace_now() {
    if (!tracing()) return log_warn("no_trace", "SIGUSR2 writes the trace; name it with trace.file first");
    const Result<void> written = write_trace();
    if (written.has_error()) return log_warn("trace_failed", "{}", to_string(written.error()));
    log_info("trace_written", "reason=SIGUSR2");
  }

  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  boost::asio::signal_set signals{io, SIGTERM, SIGINT};
  boost::asio::steady_timer last_words{io};
  std::function<void()> on_signal, on_reload;
  std::thread thread;
};

ControlThread::ControlThread(std::function<void()> on_signal, std::function<void()> on_reload)
    : impl_(std::make_unique<Impl>(std::move(on_signal), std::move(on_reload))) {
  impl_->wait_for_signal();
}

ControlThread::~ControlThread() { stop(); }

boost::asio::io_context& ControlThread::io() { return impl_->io; }

void ControlThread::start() {
  impl_->thread = std::thread([this] { impl_->io.run(); });
}

void ControlThread::stop() {
  if (!impl_->thread.joinable()) return;
  boost::asio::post(impl_->io, [this] {
    impl_->last_words.expires_after(kLastWords);
    impl_->last_words.async_wait([this](const boost::system::error_code&) { impl_->io.stop(); });
  });
  impl_->thread.join();
}

}  // namespace guildhall
