// cluster_test.cc: the router's control links against a worker that the test plays.
#include "tests/unit/router/cluster_fixture.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ClusterTest, GreetsPlacesAndFollowsLoadingUntilReady) {
  listen();
  start();
  const Received hello = next_hello();
  EXPECT_EQ(status().state, "connecting");
  EXPECT_EQ(hello.message.hello().router_name(), "r0");
  EXPECT_EQ(hello.message.hello().exchange_address(), "router-address");
  EXPECT_THAT(hello.message.hello().more_exchange_addresses(), ElementsAre("second-replica"));
  EXPECT_EQ(hello.message.hello().exchange_kind(), "loopback");
  EXPECT_EQ(hello.message.hello().model_type(), "tiny");
  EXPECT_EQ(hello.message.hello().model_fingerprint(), 4711u);
  EXPECT_EQ(hello.message.hello().dispatch_codec(), static_cast<uint32_t>(Codec::fp8));
  EXPECT_EQ(hello.message.hello().combine_codec(), static_cast<uint32_t>(Codec::bf16));
  EXPECT_EQ(hello.message.hello().combine(), static_cast<uint32_t>(Combine::reduced));
  EXPECT_NE(hello.message.hello().generation(), 0u);

  reply(hello, "worker-address");
  const control::Envelope placed = messages_.pop().message;
  ASSERT_EQ(placed.placement().layers_size(), 1);
  EXPECT_EQ(placed.placement().version(), 5u);
  EXPECT_EQ(placed.placement().layers(0).layer(), 1u);
  EXPECT_THAT(placed.placement().layers(0).experts(), ElementsAre(0, 1, 2));
  wait_for_state("loading");

  EXPECT_TRUE(hello.link->send(load_status(control::LoadStatus::LOADING, 40)));
  while (status().bytes_done != 40) std::this_thread::yield();
  EXPECT_EQ(status().bytes_total, 100);
  EXPECT_FALSE(all_ready());

  EXPECT_TRUE(hello.link->send(load_status(control::LoadStatus::READY, 100)));
  EXPECT_TRUE(hello.link->send(holdings(1, {0, 1, 2})));
  const Ready ready = ready_.pop();
  EXPECT_EQ(ready.worker, 0);
  EXPECT_EQ(ready.exchange_address, "worker-address");
  EXPECT_EQ(ready.generation, hello.message.hello().generation());
  EXPECT_EQ(ready.holdings.version, 1u);
  EXPECT_EQ(ready.holdings.experts_l, experts({0, 1, 2}));
  EXPECT_TRUE(all_ready());
  EXPECT_EQ(status().num_experts, 3);
  cluster_->set_transport(0, "loopback");
  EXPECT_EQ(status().transport, "loopback");
}

TEST_F(ClusterTest, AReadyToldTwiceCountsOnce) {
  listen();
  start();
  const Received first = become_ready("a");
  EXPECT_EQ(ready_.pop().exchange_address, "a");
  EXPECT_TRUE(first.link->send(load_status(control::LoadStatus::READY)));
  first.link->close({Code::cancelled, "restart"});
  lost_.pop();
  become_ready("b");
  EXPECT_EQ(ready_.pop().exchange_address, "b");  // and not "a" again
}

TEST_F(ClusterTest, ARefusedHelloFailsTheStartNamingTheWorker) {
  listen();
  start();
  const Received hello = next_hello();
  EXPECT_TRUE(
      hello.link->send(make_error({Code::invalid_argument, "another checkpoint"}, hello.message.id())));
  const Status why = startup_failed_.pop();
  EXPECT_EQ(why.code, Code::invalid_argument);
  EXPECT_THAT(why.message, AllOf(HasSubstr("worker=w0"), HasSubstr("another checkpoint")));
  EXPECT_EQ(status().state, "failed");
  EXPECT_THAT(status().error, HasSubstr("another checkpoint"));
}

TEST_F(ClusterTest, AFirstReplyThatIsNoHelloFailsTheStartAndEndsTheLink) {
  listen();
  start();
  const Received hello = next_hello();
  control::Envelope reply;
  reply.set_id(hello.message.id());
  reply.mutable_status_reply();
  EXPECT_TRUE(hello.link->send(reply));
  EXPECT_THAT(startup_failed_.pop().message, AllOf(HasSubstr("worker=w0"), HasSubstr("not a hello")));
  closed_.pop();
}

TEST_F(ClusterTest, AWorkerThatCannotLoadFailsTheStart) {
  listen();
  start();
  const Received hello = next_hello();
  reply(hello, "a");
  messages_.pop();
  EXPECT_TRUE(hello.link->send(load_status(control::LoadStatus::FAILED)));
  EXPECT_EQ(startup_failed_.pop().message, "worker=w0: no such checkpoint");
  EXPECT_EQ(status().state, "failed");
}

TEST_F(ClusterTest, AWorkerThatIsNotThereFailsTheStartAfterItsTime) {
  listen();
  run_on_io([&] { server_.reset(); });  // nobody listens at address_ from here on
  start(std::chrono::milliseconds(800));
  const Status why = startup_failed_.pop();
  EXPECT_EQ(why.code, Code::deadline_exceeded);
  EXPECT_THAT(why.message,
              AllOf(HasSubstr("worker=w0"), HasSubstr(address_), HasSubstr("not reached within 800 ms")));
}

TEST_F(ClusterTest, ALostLinkIsDialedAgainWithANewGeneration) {
  listen();
  start();
  const Received first = become_ready("a");
  const Ready before = ready_.pop();
  first.link->close({Code::cancelled, "the worker restarts"});
  EXPECT_EQ(lost_.pop().code, Code::peer_lost);
  EXPECT_FALSE(all_ready());
  become_ready("b");
  const Ready after = ready_.pop();
  EXPECT_EQ(after.exchange_address, "b");
  EXPECT_NE(after.generation, before.generation);
  EXPECT_TRUE(all_ready());
}

TEST_F(ClusterTest, AWorkerThatLostOurFramesIsLostAtOnceAndDialedAgain) {
  listen();
  start();
  const Received link = become_ready("a");
  const Ready before = ready_.pop();
  EXPECT_TRUE(link.link->send(make_error({Code::data_loss, "its data link ended: bad frame"}, 0)));
  const Status why = lost_.pop();
  EXPECT_EQ(why.code, Code::data_loss);
  EXPECT_EQ(why.message, "worker=w0: its data link ended: bad frame");
  become_ready("a");
  EXPECT_NE(ready_.pop().generation, before.generation);
}

TEST_F(ClusterTest, OnceReadyARefusalIsTriedAgain) {
  listen();
  start();
  become_ready("a").link->close({Code::cancelled, "the worker restarts"});
  lost_.pop();
  const Received second = next_hello();
  EXPECT_TRUE(second.link->send(make_error({Code::invalid_argument, "not now"}, second.message.id())));
  ready_.pop();
  become_ready("c");
  EXPECT_EQ(ready_.pop().exchange_address, "c");
}

TEST_F(ClusterTest, ALossOnTheDataPlaneRenewsTheControlLink) {
  listen();
  start();
  become_ready("a");
  const Ready before = ready_.pop();
  cluster_->drop(0, before.generation, {Code::deadline_exceeded, "no answer for layer 3"});
  EXPECT_EQ(lost_.pop().message, "no answer for layer 3");
  become_ready("a");
  const Ready after = ready_.pop();
  EXPECT_NE(after.generation, before.generation);

  // What the data plane says late of the link before says nothing of this one.
  cluster_->drop(0, before.generation, {Code::deadline_exceeded, "no answer for layer 4"});
  run_on_io([] {});
  EXPECT_TRUE(all_ready());
  cluster_->drop(0, after.generation, {Code::deadline_exceeded, "no answer for layer 5"});
  EXPECT_EQ(lost_.pop().message, "no answer for layer 5");
}

TEST_F(ClusterTest, CloseEndsTheLinkForGood) {
  listen();
  start();
  become_ready("a");
  ready_.pop();
  cluster_->close();
  closed_.pop();
  run_on_io([] {});
  EXPECT_EQ(num_lost_, 0);
}

TEST_F(ClusterTest, CanBeDestroyedAtAnyStage) {
  listen();
  start();
  next_hello();  // not answered yet
  run_on_io([&] { cluster_.reset(); });
  closed_.pop();

  start();
  const Received loading = next_hello();
  reply(loading, "a");
  messages_.pop();
  run_on_io([&] { cluster_.reset(); });
  closed_.pop();

  start();
  become_ready("a").link->close({Code::cancelled, "the worker restarts"});
  lost_.pop();
  run_on_io([&] { cluster_.reset(); });  // between two dials
}

}  // namespace
}  // namespace guildhall
