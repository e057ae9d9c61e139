// What arrives at a listener, good and bad: a bad connection ends alone.
#include "fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

using ControlServerTest = ControlTest;

ServerOptions with_handshake_timeout(std::chrono::nanoseconds timeout) {
  ServerOptions options;
  options.link.handshake_timeout = timeout;
  return options;
}

TEST_F(ControlServerTest, HelloArrivesThoughItComesByteByByte) {
  listen();
  RawPeer peer(address_);
  peer.socket().set_option(boost::asio::ip::tcp::no_delay(true));
  control::Envelope first = hello();
  first.set_id(9);
  for (const char byte : *encode_envelope(first)) peer.write(std::string_view(&byte, 1));
  EXPECT_EQ(messages_.pop().message.hello().router_name(), "r0");
  const auto reply = peer.read();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->id(), 9u);
  EXPECT_EQ(reply->hello_reply().worker_name(), "w0");
}

TEST_F(ControlServerTest, GarbageDropsItsOwnLinkOnly) {
  listen();
  RawPeer good(address_);
  good.write(hello());
  const Received first = messages_.pop();

  RawPeer http(address_);
  http.write("GET /health HTTP/1.1\r\nHost: w0\r\n\r\n");
  EXPECT_FALSE(http.read());
  RawPeer garbage(address_);
  garbage.write(std::string_view("\x03\0\0\0\xff\xff\xff", 7));
  EXPECT_FALSE(garbage.read());

  good.write(placement(3));
  EXPECT_EQ(messages_.pop().message.placement().layers(0).experts_size(), 3);
}

TEST_F(ControlServerTest, GarbageAfterTheHelloClosesTheLinkWithAReason) {
  listen();
  RawPeer peer(address_);
  peer.write(hello());
  messages_.pop();
  peer.write(std::string_view("\xff\xff\xff\xff", 4));
  const Status why = closed_.pop();
  EXPECT_EQ(why.code, Code::data_loss);
  EXPECT_THAT(why.message, HasSubstr("announces 4294967295 bytes"));
  EXPECT_THAT(why.message, HasSubstr("peer=127.0.0.1:"));
}

TEST_F(ControlServerTest, TheFirstMessageMayNotBeHuge) {
  listen();
  RawPeer peer(address_);
  peer.write(std::string_view("\x01\x00\x10\x00", 4));
  EXPECT_FALSE(peer.read());
}

TEST_F(ControlServerTest, AnotherMajorVersionIsToldSoAndClosed) {
  listen();
  RawPeer peer(address_);
  control::Envelope first = hello(kControlVersion + (1u << 16));
  first.set_id(3);
  peer.write(first);
  const auto reply = peer.read();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->id(), 3u);
  EXPECT_EQ(reply->error().code(), "unsupported");
  EXPECT_THAT(reply->error().message(), HasSubstr("control protocol 2 of 'r0'"));
  EXPECT_FALSE(peer.read());
}

TEST_F(ControlServerTest, ANewerMinorVersionIsWelcome) {
  listen();
  RawPeer peer(address_);
  peer.write(hello(kControlVersion + 7));
  EXPECT_EQ(messages_.pop().message.hello().protocol_version(), kControlVersion + 7);
}

TEST_F(ControlServerTest, AnotherFirstMessageIsRefused) {
  listen();
  RawPeer peer(address_);
  peer.write(placement(1));
  const auto reply = peer.read();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error().code(), "invalid_argument");
  EXPECT_FALSE(peer.read());
}

TEST_F(ControlServerTest, WhoeverSaysNothingIsDropped) {
  listen(with_handshake_timeout(std::chrono::milliseconds(20)));
  RawPeer peer(address_);
  EXPECT_FALSE(peer.read());
}

TEST_F(ControlServerTest, AMessageWithoutAKnownBodyIsAnsweredAndTheLinkGoesOn) {
  listen();
  RawPeer peer(address_);
  peer.write(hello());
  messages_.pop();
  control::Envelope unknown;
  unknown.set_id(77);
  peer.write(unknown);
  ASSERT_TRUE(peer.read()->has_hello_reply());
  const auto reply = peer.read();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->id(), 77u);
  EXPECT_EQ(reply->error().code(), "unsupported");
  peer.write(placement(1));
  EXPECT_TRUE(messages_.pop().message.has_placement());
}

TEST_F(ControlServerTest, LinksAreLimitedAndTheSurplusIsTold) {
  ServerOptions options;
  options.max_links = 2;
  listen(options);
  RawPeer first(address_), second(address_);
  first.write(hello());
  second.write(hello());
  messages_.pop();
  messages_.pop();
  RawPeer third(address_);
  const auto refusal = third.read();
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->error().code(), "resource_exhausted");
  EXPECT_FALSE(third.read());
  first.socket().close();
  closed_.pop();
  // The place is free again once the server has let go of it.
  while (run_on_io([&] { return server_->num_links(); }) == 2) std::this_thread::yield();
  RawPeer fourth(address_);
  fourth.write(hello());
  EXPECT_TRUE(messages_.pop().message.has_hello());
}

TEST_F(ControlServerTest, ManyLinksAtOnceAreServed) {
  listen();
  std::vector<std::unique_ptr<RawPeer>> peers;
  for (int i = 0; i < 50; ++i) peers.push_back(std::make_unique<RawPeer>(address_));
  for (auto& peer : peers) peer->write(hello());
  for (auto& peer : peers) {
    const auto reply = peer->read();
    ASSERT_TRUE(reply && reply->has_hello_reply());
  }
  EXPECT_EQ(run_on_io([&] { return server_->num_links(); }), 50u);
}

TEST_F(ControlServerTest, APortInUseIsNamed) {
  listen();
  run_on_io([&] {
    const auto second = ControlServer::listen(io_, address_, {.name = "worker=w1"}, {});
    ASSERT_FALSE(second);
    EXPECT_THAT(second.error().message, HasSubstr("worker=w1: cannot listen on " + address_));
    EXPECT_THAT(second.error().message, HasSubstr("in use"));
  });
}

TEST_F(ControlServerTest, AnAddressOfAnotherHostOrNoneIsNamed) {
  run_on_io([&] {
    const auto elsewhere = ControlServer::listen(io_, "192.0.2.1:7000", {.name = "worker=w1"}, {});
    ASSERT_FALSE(elsewhere);
    EXPECT_THAT(elsewhere.error().message, HasSubstr("this host has no such address"));
    const auto malformed = ControlServer::listen(io_, "7000", {}, {});
    ASSERT_FALSE(malformed);
    EXPECT_THAT(malformed.error().message, HasSubstr("it has no port"));
  });
}

TEST_F(ControlServerTest, DestroyingTheServerEndsItsLinksAndFreesThePort) {
  listen();
  RawPeer peer(address_);
  peer.write(hello());
  messages_.pop();
  run_on_io([&] { server_.reset(); });
  while (peer.read()) {
  }
  listen({}, address_);
}

}  // namespace
}  // namespace guildhall
