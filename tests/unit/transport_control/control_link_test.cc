// An open link: requests and replies, order, bounds, silence and closing.
#include "fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

using ControlLinkTest = ControlTest;

TEST_F(ControlLinkTest, MessagesArriveInOrderBothWays) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed) << to_string(dialed.error());
  EXPECT_EQ(dialed->reply->hello_reply().worker_name(), "w0");
  const LinkPtr accepted = messages_.pop().link;
  for (uint32_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(dialed->link->send(placement(i)));
    control::Envelope status;
    status.mutable_load_status()->set_bytes_done(i);
    ASSERT_TRUE(accepted->send(status));
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(messages_.pop().message.placement().layers(0).experts_size(), i);
    EXPECT_EQ(client_messages_.pop().message.load_status().bytes_done(), i);
  }
}

TEST_F(ControlLinkTest, LargeMessagesPassWholeAndTooLargeOnesAreRefusedBySend) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  messages_.pop();
  ASSERT_TRUE(dialed->link->send(placement(1'000'000)));
  EXPECT_EQ(messages_.pop().message.placement().layers(0).experts_size(), 1'000'000);
  control::Envelope huge;
  huge.mutable_hello()->set_exchange_address(std::string(kMaxEnvelopeBytes + 1, 'x'));
  const auto refused = dialed->link->send(huge);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::invalid_argument);
}

TEST_F(ControlLinkTest, ARequestGetsItsOwnReplyOrItsErrorOrADeadline) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  messages_.pop();
  control::Envelope request;
  request.mutable_status_request();
  Events<Result<control::Envelope>> replies;
  const auto record = [&](const Result<control::Envelope>& reply) { replies.push(reply); };

  dialed->link->request(request, kGuard, record);
  const auto reply = replies.pop();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status_reply().rows_served(), 42u);

  dialed->link->request(placement(1), kGuard, record);
  messages_.pop();  // the status request
  const Received asked = messages_.pop();
  ASSERT_TRUE(asked.link->send(make_error({Code::not_found, "no such layer"}, asked.message.id())));
  const auto error = replies.pop();
  ASSERT_FALSE(error);
  EXPECT_EQ(error.error().code, Code::not_found);
  EXPECT_EQ(error.error().message, "no such layer");

  dialed->link->request(placement(2), std::chrono::milliseconds(5), record);
  const auto late = replies.pop();
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::deadline_exceeded);
  EXPECT_THAT(late.error().message, HasSubstr("worker=w0 address=127.0.0.1:"));
}

TEST_F(ControlLinkTest, ALateReplyIsAMessageLikeAnyOther) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  messages_.pop();
  Events<Result<control::Envelope>> replies;
  dialed->link->request(placement(2), std::chrono::milliseconds(1),
                        [&](const Result<control::Envelope>& reply) { replies.push(reply); });
  const Received asked = messages_.pop();
  ASSERT_FALSE(replies.pop());
  control::Envelope status;
  status.set_id(asked.message.id());
  status.mutable_load_status()->set_state(control::LoadStatus::READY);
  ASSERT_TRUE(asked.link->send(status));
  EXPECT_EQ(client_messages_.pop().message.load_status().state(), control::LoadStatus::READY);
}

TEST_F(ControlLinkTest, CloseSendsWhatIsQueuedAndBothEndsLearnOfIt) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  messages_.pop();
  ASSERT_TRUE(dialed->link->send(placement(100'000)));
  dialed->link->close({Code::cancelled, "done with it"});
  EXPECT_EQ(messages_.pop().message.placement().layers(0).experts_size(), 100'000);
  EXPECT_EQ(client_closed_.pop().message, "done with it");
  const Status why = closed_.pop();
  EXPECT_EQ(why.code, Code::peer_lost);
  EXPECT_THAT(why.message, HasSubstr("closed by the peer"));
  const auto after = dialed->link->send(placement(1));
  ASSERT_FALSE(after);
  EXPECT_EQ(after.error().code, Code::peer_lost);
}

TEST_F(ControlLinkTest, ClosingFailsTheRequestsThatWait) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  messages_.pop();
  Events<Result<control::Envelope>> replies;
  const auto record = [&](const Result<control::Envelope>& reply) { replies.push(reply); };
  dialed->link->request(placement(1), kGuard, record);
  messages_.pop();
  run_on_io([&] { server_.reset(); });
  EXPECT_EQ(replies.pop().error().code, Code::peer_lost);
  EXPECT_EQ(client_closed_.pop().code, Code::peer_lost);
  dialed->link->request(placement(1), kGuard, record);
  EXPECT_EQ(replies.pop().error().code, Code::peer_lost);
}

TEST_F(ControlLinkTest, ASilentPeerIsLost) {
  ServerOptions options;
  options.link.heartbeat = std::chrono::milliseconds(2);
  listen(options);
  RawPeer peer(address_);
  peer.write(hello());
  const Status why = closed_.pop();
  EXPECT_EQ(why.code, Code::peer_lost);
  EXPECT_THAT(why.message, HasSubstr("silent for 10 heartbeats of 2 ms"));
}

TEST_F(ControlLinkTest, HeartbeatsKeepAnIdleLinkOpen) {
  ServerOptions options;
  options.link.heartbeat = std::chrono::milliseconds(300);
  listen(options);
  RawPeer peer(address_);
  peer.write(hello());
  const LinkPtr link = messages_.pop().link;
  // More heartbeats than silence would allow, sent as answers to the other end's.
  EnvelopeAssembler assembler;
  control::Envelope beat;
  beat.mutable_heartbeat();
  for (int seen = 0; seen < kSilentHeartbeats + 2;) {
    char buffer[4096];
    assembler.feed({buffer, peer.socket().read_some(boost::asio::buffer(buffer))});
    while (const auto next = *assembler.next()) {
      if (!next->has_heartbeat()) continue;
      ++seen;
      peer.write(beat);
    }
  }
  EXPECT_TRUE(link->send(placement(1)));
}

TEST_F(ControlLinkTest, APeerThatDoesNotReadIsBounded) {
  ServerOptions options;
  options.link.max_queued_bytes = 1 << 20;
  listen(options);
  RawPeer peer(address_);
  peer.write(hello());
  const LinkPtr link = messages_.pop().link;
  const control::Envelope large = placement(50'000);
  Result<void> sent;
  size_t accepted = 0;
  // On the io thread nothing is written meanwhile, so the bound is met exactly.
  run_on_io([&] {
    while ((sent = link->send(large))) ++accepted;
  });
  EXPECT_EQ(sent.error().code, Code::resource_exhausted);
  EXPECT_THAT(sent.error().message, HasSubstr("the peer does not read"));
  EXPECT_LE(accepted * large.ByteSizeLong(), options.link.max_queued_bytes);
  EXPECT_GE((accepted + 2) * large.ByteSizeLong(), options.link.max_queued_bytes);
  // Once the peer reads, there is room again.
  ASSERT_TRUE(peer.read()->has_hello_reply());
  for (size_t i = 0; i < accepted; ++i) ASSERT_TRUE(peer.read()->has_placement());
  while (!link->send(large)) std::this_thread::yield();
}

TEST_F(ControlLinkTest, AnyThreadMaySend) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  messages_.pop();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) EXPECT_TRUE(dialed->link->send(placement(2)));
    });
  for (auto& thread : threads) thread.join();
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(messages_.pop().message.has_placement());
}

TEST_F(ControlLinkTest, RequestsThatWaitAreBounded) {
  listen();
  const auto dialed = dial(dial_options());
  ASSERT_TRUE(dialed);
  Events<Result<control::Envelope>> replies;
  for (size_t i = 0; i < kMaxPendingRequests + 1; ++i)
    dialed->link->request(placement(1), kGuard,
                          [&](const Result<control::Envelope>& reply) { replies.push(reply); });
  EXPECT_EQ(replies.pop().error().code, Code::resource_exhausted);
  run_on_io([&] { client_.reset(); });  // abandons the rest without a call
}

}  // namespace
}  // namespace guildhall
