// control_service_test.cc: hellos, placements and the end.
#include "tests/unit/experts/control_service_fixture.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- hello

TEST_F(ControlServiceTest, AnswersAHelloWithWhatItIs) {
  ControlServiceOptions limited = options();
  limited.memory_limit = 1 << 20;
  start(limited);
  const auto dialed = dial(dial_options(), router_hello());
  ASSERT_TRUE(dialed.has_value()) << dialed.error().message;
  const control::HelloReply& reply = dialed->reply->hello_reply();
  EXPECT_EQ(reply.protocol_version(), kControlVersion);
  EXPECT_EQ(reply.worker_name(), "w0");
  EXPECT_EQ(reply.exchange_address(), "the worker's");
  EXPECT_EQ(reply.memory_bytes(), 1 << 20);
  EXPECT_EQ(reply.isa(), "avx2");
  EXPECT_FALSE(reply.offloads());
  EXPECT_EQ(query().num_routers(), 1u);
}

TEST_F(ControlServiceTest, SaysThatItOffloads) {
  ControlServiceOptions offloading = options();
  offloading.memory_limit = 1 << 20;
  offloading.offload = OffloadMode::disk;
  start(offloading);
  const auto dialed = dial(dial_options(), router_hello());
  ASSERT_TRUE(dialed.has_value()) << dialed.error().message;
  EXPECT_TRUE(dialed->reply->hello_reply().offloads());
}

TEST_F(ControlServiceTest, RefusesARouterOfAnotherCheckpointTransportOrCodec) {
  start();
  control::Envelope other = router_hello();
  other.mutable_hello()->set_model_fingerprint(1);
  expect_hello_refused(
      other, Code::invalid_argument,
      "router r0 serves another qwen3_moe checkpoint than the one at " + tiny_checkpoint().string());
  other = router_hello();
  other.mutable_hello()->set_model_type("deepseek_v3");
  expect_hello_refused(other, Code::invalid_argument, "serves another deepseek_v3 checkpoint");
  other = router_hello();
  other.mutable_hello()->set_exchange_kind("ucx");
  expect_hello_refused(other, Code::invalid_argument,
                       "router r0 has transport.kind ucx, this worker loopback");
  other = router_hello();
  other.mutable_hello()->set_dispatch_codec(9);
  expect_hello_refused(other, Code::unsupported, "router r0 asks for codec 9");
  other.mutable_hello()->set_dispatch_codec(0), other.mutable_hello()->set_combine_codec(3);
  expect_hello_refused(other, Code::unsupported, "router r0 asks for codec 3");
  other.mutable_hello()->set_combine_codec(0), other.mutable_hello()->set_combine(2);
  expect_hello_refused(other, Code::unsupported, "router r0 asks for combine 2");
  EXPECT_EQ(query().num_routers(), 0u);
  greet();  // a proper one is still welcome
}

TEST_F(ControlServiceTest, RefusesARouterThatItsExchangeCannotReach) {
  start();
  control::Envelope other = router_hello();
  other.mutable_hello()->set_exchange_address("loopback:999999");
  DialOptions once = dial_options();
  once.retry = false;
  const auto dialed = dial(once, other);
  ASSERT_TRUE(dialed.has_error());
  EXPECT_THAT(dialed.error().message, AllOf(HasSubstr("worker=w0"), HasSubstr("loopback:999999")));
}

TEST_F(ControlServiceTest, ASecondHelloOnALinkEndsIt) {
  start();
  {
    RawPeer router(address_);
    router.write(router_hello());
    ASSERT_TRUE(router.read()->has_hello_reply());
    router.write(router_hello(6));
    expect_error(router.read(), "a second hello");
    EXPECT_FALSE(router.read().has_value());
  }
  while (query().num_routers() != 0) std::this_thread::yield();
  greet();
}

TEST_F(ControlServiceTest, ARouterWhoseLinkEndsIsDetached) {
  start();
  greet()->close({Code::cancelled, "bye"});
  client_closed_.pop();
  while (query().num_routers() != 0) std::this_thread::yield();
  greet();
}

TEST_F(ControlServiceTest, ARouterWhoseFramesAreDroppedIsToldOnItsControlLink) {
  start();
  greet();
  const PeerId worker = router_end_->connect("w0", end_->local_address()).value();
  const auto region = router_end_->acquire(worker, 64).value();
  std::memset(region.data(), 0x5a, 64);
  const Exchange::Outgoing garbage{worker, 64};
  router_end_->post({&garbage, 1});

  const control::Envelope told = client_messages_.pop().message;
  ASSERT_TRUE(told.has_error()) << told.DebugString();
  EXPECT_EQ(told.id(), 0u);
  const Status why = read_error(told.error());
  EXPECT_EQ(why.code, Code::data_loss);
  EXPECT_THAT(why.message, HasSubstr("its data link ended: bad frame from router r0: frame refused"));
  EXPECT_EQ(client_closed_.pop().code, Code::peer_lost);
  while (query().num_routers() != 0) std::this_thread::yield();
  greet();
}

// ---- placement

TEST_F(ControlServiceTest, LoadsAPlacementAndTellsUntilReady) {
  start();
  EXPECT_EQ(query().load().state(), control::LoadStatus::IDLE);
  const LinkPtr link = greet();
  ASSERT_TRUE(link->send(place({0, 4, 8})));
  const control::LoadStatus first = next_status();
  EXPECT_EQ(first.state(), control::LoadStatus::LOADING);
  EXPECT_EQ(first.placement_version(), 3u);
  const control::LoadStatus ready = await_loaded();
  EXPECT_EQ(ready.state(), control::LoadStatus::READY) << ready.error();
  EXPECT_EQ(ready.num_experts(), 6);
  EXPECT_GT(ready.resident_bytes(), 0);
  EXPECT_EQ(ready.bytes_done(), ready.bytes_total());

  const control::StatusReply status = query();
  EXPECT_EQ(status.worker_name(), "w0");
  EXPECT_EQ(status.load().state(), control::LoadStatus::READY);
  EXPECT_EQ(status.load().num_experts(), 6);
  EXPECT_EQ(status.num_routers(), 1u);
  EXPECT_FALSE(status.draining());
}

TEST_F(ControlServiceTest, AnnouncesWhatItHoldsOnceItIsReady) {
  start();
  const LinkPtr link = greet();
  ASSERT_TRUE(link->send(place({0, 4})));
  ASSERT_EQ(await_loaded().state(), control::LoadStatus::READY);
  const control::Holdings holdings = next_holdings();
  EXPECT_EQ(holdings.version(), 1u);
  EXPECT_THAT(experts_in(holdings), ElementsAre(0, 4));
  EXPECT_EQ(holdings.layers(0).layer(), 0u);
  EXPECT_EQ(holdings.layers(1).layer(), 2u);
}

TEST_F(ControlServiceTest, APlacementFindsWhatIsHeldAlreadyReadyAtOnce) {
  start();
  LinkPtr link = greet();
  ASSERT_TRUE(link->send(place({0, 4})));
  ASSERT_EQ(await_loaded().state(), control::LoadStatus::READY);
  ASSERT_EQ(next_holdings().version(), 1u);
  for (const auto& experts : std::vector<std::vector<uint32_t>>{{0, 4}, {0, 4, 5}}) {
    ASSERT_TRUE(link->send(place(experts)));
    const control::LoadStatus status = next_status();
    EXPECT_EQ(status.state(), control::LoadStatus::READY);  // loading would say so first
    EXPECT_EQ(status.num_experts(), 4);
    const control::Holdings holdings = next_holdings();
    EXPECT_EQ(holdings.version(), 1u);
    EXPECT_THAT(experts_in(holdings), ElementsAre(0, 4));

    link->close({Code::cancelled, "the router restarts"});
    client_closed_.pop();
    link = greet();
  }
}

TEST_F(ControlServiceTest, ASecondRouterAdoptsWhatIsHeld) {
  start();
  const LinkPtr first = greet();
  ASSERT_TRUE(first->send(place({0, 4})));
  ASSERT_EQ(await_loaded().state(), control::LoadStatus::READY);

  const auto second_end = fabric_.make_end("r1");
  control::Envelope second_hello = router_hello(6);
  second_hello.mutable_hello()->set_router_name("r1");
  second_hello.mutable_hello()->set_exchange_address(second_end->local_address());
  {
    RawPeer second(address_);
    second.write(second_hello);
    ASSERT_TRUE(second.read()->has_hello_reply());
    second.write(place({0, 5}));
    EXPECT_EQ(second.read()->load_status().state(), control::LoadStatus::READY);
    EXPECT_THAT(experts_in(second.read()->holdings()), ElementsAre(0, 4));
  }
  EXPECT_EQ(query().load().state(), control::LoadStatus::READY);
  ASSERT_TRUE(first->send(place({0, 4})));  // and the first goes on
  EXPECT_EQ(next_status().state(), control::LoadStatus::READY);
}

TEST_F(ControlServiceTest, ReplicasOfARouterShareItsLink) {
  start();
  const auto second_end = fabric_.make_end("r0/1");
  control::Envelope both = router_hello();
  both.mutable_hello()->add_more_exchange_addresses(second_end->local_address());
  const auto dialed = dial(dial_options(), both);
  ASSERT_TRUE(dialed.has_value()) << dialed.error().message;
  ASSERT_TRUE(dialed->link->send(place({0, 4})));
  ASSERT_EQ(await_loaded().state(), control::LoadStatus::READY);
  EXPECT_EQ(query().num_routers(), 1u);
}

TEST_F(ControlServiceTest, AReplicaThatCannotBeReachedRefusesTheRouter) {
  start();
  control::Envelope both = router_hello();
  both.mutable_hello()->add_more_exchange_addresses("loopback:999999");
  DialOptions once = dial_options();
  once.retry = false;
  const auto dialed = dial(once, both);
  ASSERT_TRUE(dialed.has_error());
  EXPECT_THAT(dialed.error().message, HasSubstr("loopback:999999"));
  both = router_hello();
  for (int i = 0; i < 64; ++i) both.mutable_hello()->add_more_exchange_addresses("loopback:1");
  expect_hello_refused(both, Code::invalid_argument, "router r0 has 65 replicas; at most 64 fit");
}

TEST_F(ControlServiceTest, RefusesAPlacementThatCannotBe) {
  start();
  const std::vector<std::pair<control::Envelope, std::string>> cases{
      {place({0}, {1}), "placement: layer 1 has no experts"},
      {place({0}, {3}), "placement: layer 3 has no experts"},
      {place({0, 9}), "placement: layer 0: expert 9 is out of order or range"},
      {place({4, 4}), "placement: layer 0: expert 4 is out of order or range"},
      {place({4, 2}), "placement: layer 0: expert 2 is out of order or range"},
  };
  for (const auto& [placement, what] : cases) {
    {
      RawPeer router(address_);
      router.write(router_hello());
      ASSERT_TRUE(router.read()->has_hello_reply());
      router.write(placement);
      expect_error(router.read(), what);
      EXPECT_FALSE(router.read().has_value());
    }
    while (query().num_routers() != 0) std::this_thread::yield();
  }
  EXPECT_EQ(query().load().state(), control::LoadStatus::IDLE);
}

TEST_F(ControlServiceTest, RefusesAPlacementBeforeAHello) {
  start();
  RawPeer stranger(address_);
  control::Envelope ask;
  ask.set_id(1);
  ask.mutable_status_request();
  stranger.write(ask);
  ASSERT_TRUE(stranger.read()->has_status_reply());
  stranger.write(place({0}));
  expect_error(stranger.read(), "experts are placed and moved by routers, after a hello");
}

TEST_F(ControlServiceTest, SaysWhyItCannotLoadAndMayBeAskedAgain) {
  ControlServiceOptions small = options();
  small.memory_limit = expert_bytes(tiny_model()) * 3;
  start(small);
  const LinkPtr link = greet();
  ASSERT_TRUE(link->send(place({0, 4})));
  const control::LoadStatus failed = await_loaded();
  EXPECT_EQ(failed.state(), control::LoadStatus::FAILED);
  EXPECT_THAT(failed.error(), AllOf(HasSubstr("4 experts of "), HasSubstr("which holds 3 of them")));
  EXPECT_EQ(query().load().error(), failed.error());
  ASSERT_TRUE(link->send(place({0, 4})));
  EXPECT_EQ(await_loaded().state(), control::LoadStatus::FAILED);
  ASSERT_TRUE(link->send(place({4})));
  EXPECT_EQ(await_loaded().num_experts(), 2);
}

// ---- the end

TEST_F(ControlServiceTest, ADrainIsPassedOnAndEndsNewHellos) {
  start();
  const LinkPtr link = greet();
  control::Envelope drain;
  drain.mutable_drain();
  ASSERT_TRUE(link->send(drain));
  EXPECT_TRUE(drains_.pop());
  EXPECT_TRUE(query().draining());
  DialOptions once = dial_options();
  once.retry = false;
  run_on_io([&] { client_.reset(); });
  expect_hello_refused(router_hello(), Code::unavailable, "worker=w0 is draining");
}

TEST_F(ControlServiceTest, RefusesAnAddressThatIsTaken) {
  start();
  ControlServiceOptions taken = options();
  taken.listen = address_;
  run_on_io([&] {
    const auto second = ControlService::start(io_, taken, tiny_model(), worker_, [] {});
    ASSERT_TRUE(second.has_error());
    EXPECT_THAT(second.error().message, HasSubstr(address_));
  });
}

TEST_F(ControlServiceTest, CanBeDestroyedWhileItLoads) {
  start();
  const LinkPtr link = greet();
  ASSERT_TRUE(link->send(place({0, 1, 2, 3, 4, 5, 6, 7, 8})));
  next_status();
  run_on_io([&] { service_.reset(); });
  client_closed_.pop();
}

// A worker that is stopped keeps the hellos it never came to: they must not keep links beyond their
// io_context.
TEST(ControlServiceLifetime, AHelloThatWasNeverServedOutlivesNothing) {
  LoopbackFabric fabric;
  const auto end = fabric.make_end("w0");
  Worker worker(tiny_model(), *end, make_cpu_ops({}));
  {
    boost::asio::io_context io;
    const auto service = ControlService::start(io,
                                               {.worker_name = "w0",
                                                .listen = "127.0.0.1:0",
                                                .exchange_kind = "loopback",
                                                .exchange_address = "the worker's",
                                                .model_path = tiny_checkpoint(),
                                                .heartbeat = std::chrono::seconds(10)},
                                               tiny_model(), worker, [] {})
                             .value();
    RawPeer router(service->local_address());
    control::Envelope first = hello();
    first.mutable_hello()->set_exchange_kind("loopback");
    first.mutable_hello()->set_model_type(tiny_model().model_type);
    first.mutable_hello()->set_model_fingerprint(fingerprint(tiny_model()));
    router.write(first);
    control::Envelope ask;
    ask.set_id(2);
    ask.mutable_status_request();
    router.write(ask);
    while (router.socket().available() == 0) io.run_one();
    EXPECT_EQ(router.read()->status_reply().num_routers(), 1u);
  }
}

}  // namespace
}  // namespace guildhall
