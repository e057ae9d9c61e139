// control_service_fixture.h: a worker with its control plane over real sockets, and the worker behind it on a
// thread of its own.
#pragma once

#include "experts/control_service.h"
#include "kernels/cpu_ops.h"
#include "model/fingerprint.h"
#include "proto/exchange.h"
#include "tests/unit/experts/dispatch_frames.h"
#include "tests/unit/transport_control/fixture.h"
#include "transport/loopback.h"

namespace guildhall {

class ControlServiceTest : public ControlTest {
 protected:
  ControlServiceTest() : serve_([this] { worker_.run(); }) {}
  ~ControlServiceTest() override {
    run_on_io([&] { client_.reset(), service_.reset(); });
    worker_.stop();
    serve_.join();
  }

  static ControlServiceOptions options() {
    return {.worker_name = "w0",
            .listen = "127.0.0.1:0",
            .exchange_kind = "loopback",
            .exchange_address = "the worker's",
            .model_path = tiny_checkpoint(),
            .isa = "avx2",
            .heartbeat = std::chrono::seconds(10)};
  }
  void start(const ControlServiceOptions& options = ControlServiceTest::options()) {
    run_on_io([&] {
      service_ =
          ControlService::start(io_, options, tiny_model(), worker_, [this] { drains_.push(true); }).value();
      address_ = service_->local_address();
    });
  }

  control::Envelope router_hello(uint64_t generation = 5) {
    control::Envelope envelope = hello();
    control::Hello& h = *envelope.mutable_hello();
    h.set_router_name("r0");
    h.set_exchange_address(router_end_->local_address());
    h.set_exchange_kind("loopback");
    h.set_model_type(tiny_model().model_type);
    h.set_model_fingerprint(fingerprint(tiny_model()));
    h.set_dispatch_codec(static_cast<uint32_t>(Codec::fp8));
    h.set_combine_codec(static_cast<uint32_t>(Codec::bf16));
    h.set_combine(static_cast<uint32_t>(Combine::reduced));
    h.set_generation(generation);
    return envelope;
  }
  static control::Envelope place(const std::vector<uint32_t>& experts,
                                 const std::vector<uint32_t>& layers = {0, 2}) {
    control::Envelope envelope;
    envelope.mutable_placement()->set_version(3);
    for (const uint32_t layer : layers) {
      auto& entry = *envelope.mutable_placement()->add_layers();
      entry.set_layer(layer);
      for (const uint32_t e : experts) entry.add_experts(e);
    }
    return envelope;
  }

  LinkPtr greet() {
    const auto dialed = dial(dial_options(), router_hello());
    EXPECT_TRUE(dialed.has_value()) << dialed.error().message;
    return dialed->link;
  }
  void expect_hello_refused(const control::Envelope& first, Code code, const std::string& what) {
    DialOptions once = dial_options();
    once.retry = false;
    const auto dialed = dial(once, first);
    ASSERT_TRUE(dialed.has_error());
    EXPECT_EQ(dialed.error().code, code);
    EXPECT_THAT(dialed.error().message,
                ::testing::AllOf(::testing::HasSubstr("worker=w0"), ::testing::HasSubstr(what)));
  }
  // The next message that has it.
  control::Envelope next(bool (control::Envelope::*has)() const) {
    for (;;)
      if (const control::Envelope message = client_messages_.pop().message; (message.*has)()) return message;
  }
  control::LoadStatus next_status() { return next(&control::Envelope::has_load_status).load_status(); }
  control::Holdings next_holdings() { return next(&control::Envelope::has_holdings).holdings(); }
  // Of one of the layers, which hold the same.
  static std::vector<uint32_t> experts_in(const control::Holdings& holdings) {
    EXPECT_EQ(holdings.layers_size(), 2);
    const auto& experts = holdings.layers(0).experts();
    EXPECT_THAT(holdings.layers(1).experts(), ::testing::ElementsAreArray(experts));
    return {experts.begin(), experts.end()};
  }
  // The statuses up to the one that is not LOADING.
  control::LoadStatus await_loaded() {
    for (;;)
      if (const auto status = next_status(); status.state() != control::LoadStatus::LOADING) return status;
  }
  control::StatusReply query() { return query_status(address_, kGuard).value(); }
  static void expect_error(const std::optional<control::Envelope>& message, const std::string& what) {
    ASSERT_TRUE(message.has_value());
    ASSERT_TRUE(message->has_error()) << message->DebugString();
    EXPECT_EQ(message->error().code(), "invalid_argument");
    EXPECT_THAT(message->error().message(), ::testing::HasSubstr(what));
  }

  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> end_ = fabric_.make_end("w0"), router_end_ = fabric_.make_end("r0");
  Worker worker_{tiny_model(), *end_, make_cpu_ops({})};
  std::unique_ptr<ControlService> service_;
  Events<bool> drains_;
  std::thread serve_;
};

}  // namespace guildhall
