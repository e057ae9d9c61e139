// fixture.h: an io thread, a server whose events can be waited for, and a raw TCP peer that says what it
// likes.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "proto/host_port.h"
#include "transport/control/control_client.h"
#include "transport/control/control_server.h"

namespace guildhall {

inline constexpr std::chrono::seconds kGuard{30};  // how long a test waits for what must happen

// A queue between the io thread and the test.
template <class T>
class Events {
 public:
  void push(T event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  T pop() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kGuard, [&] { return !events_.empty(); }))
      throw std::runtime_error("the awaited event did not come");
    T event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    events_.clear();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> events_;
};

struct Received {
  LinkPtr link;
  control::Envelope message;
};

inline control::Envelope hello(uint32_t version = kControlVersion) {
  control::Envelope envelope;
  envelope.mutable_hello()->set_protocol_version(version);
  envelope.mutable_hello()->set_router_name("r0");
  return envelope;
}

inline control::Envelope placement(size_t num_experts) {
  control::Envelope envelope;
  auto& layer = *envelope.mutable_placement()->add_layers();
  for (size_t i = 0; i < num_experts; ++i) layer.add_experts(static_cast<uint32_t>(i));
  return envelope;
}

// Blocking socket without any manners of its own.
class RawPeer {
 public:
  explicit RawPeer(const std::string& address) : socket_(io_) {
    const auto parsed = *parse_host_port(address);
    socket_.connect({boost::asio::ip::make_address(parsed.host), parsed.port});
  }
  void write(std::string_view bytes) { boost::asio::write(socket_, boost::asio::buffer(bytes)); }
  void write(const control::Envelope& message) { write(*encode_envelope(message)); }

  // The next message that is no heartbeat; nullopt when the other end has closed.
  std::optional<control::Envelope> read() {
    for (;;) {
      if (auto next = *assembler_.next()) {
        if (!next->has_heartbeat()) return next;
        continue;
      }
      char buffer[4096];
      boost::system::error_code error;
      const size_t bytes = socket_.read_some(boost::asio::buffer(buffer), error);
      if (error) return std::nullopt;
      assembler_.feed({buffer, bytes});
    }
  }
  boost::asio::ip::tcp::socket& socket() { return socket_; }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_;
  EnvelopeAssembler assembler_;
};

class ControlTest : public ::testing::Test {
 protected:
  // Runs `work` on the io thread and waits for it.
  template <class Work>
  auto run_on_io(Work work) {
    std::packaged_task<decltype(work())()> task(std::move(work));
    auto result = task.get_future();
    boost::asio::post(io_, [&] { task(); });
    return result.get();
  }

  ControlTest() : work_(io_.get_executor()), thread_([this] { io_.run(); }) {}
  ~ControlTest() override {
    run_on_io([&] { server_.reset(), client_.reset(); });
    messages_.clear(), client_messages_.clear();  // they hold links
    work_.reset();
    io_.stop();
    thread_.join();
  }

  void listen(ServerOptions options = {}, const std::string& address = "127.0.0.1:0") {
    options.name = "worker=w0";
    run_on_io([&] {
      auto server = ControlServer::listen(io_, address, options, server_handlers());
      ASSERT_TRUE(server) << to_string(server.error());
      server_ = *std::move(server);
      address_ = server_->local_address();
    });
  }

  // By default answers a Hello, and hands everything to the test.
  LinkHandlers server_handlers() {
    return {.on_message =
                [this](const LinkPtr& link, const control::Envelope& message) {
                  if (message.has_hello() && is_answering_) {
                    control::Envelope reply;
                    reply.set_id(message.id());
                    reply.mutable_hello_reply()->set_worker_name("w0");
                    EXPECT_TRUE(link->send(reply));
                  }
                  if (message.has_status_request()) {
                    control::Envelope reply;
                    reply.set_id(message.id());
                    reply.mutable_status_reply()->set_worker_name("w0");
                    reply.mutable_status_reply()->set_rows_served(42);
                    EXPECT_TRUE(link->send(reply));
                  }
                  messages_.push({link, message});
                },
            .on_closed = [this](const LinkPtr&, const Status& why) { closed_.push(why); }};
  }

  DialOptions dial_options() const {
    return {
        .name = "w0", .address = address_, .timeout = kGuard, .first_backoff = std::chrono::milliseconds(1)};
  }

  Result<DialedLink> dial(DialOptions options, const control::Envelope& first = hello()) {
    std::promise<Result<DialedLink>> result;
    run_on_io([&] {
      if (!client_) client_ = std::make_unique<ControlClient>(io_);
      client_->dial(options, first,
                    {.on_message =
                         [this](const LinkPtr& link, const control::Envelope& message) {
                           client_messages_.push({link, message});
                         },
                     .on_closed = [this](const LinkPtr&, const Status& why) { client_closed_.push(why); }},
                    [&](const Result<DialedLink>& dialed) { result.set_value(dialed); });
    });
    return result.get_future().get();
  }

  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::atomic<bool> is_answering_{true};
  std::unique_ptr<ControlServer> server_;  // made and destroyed on the io thread, as is client_
  std::unique_ptr<ControlClient> client_;
  std::string address_;
  Events<Received> messages_, client_messages_;
  Events<Status> closed_, client_closed_;
  std::thread thread_;
};

}  // namespace guildhall
