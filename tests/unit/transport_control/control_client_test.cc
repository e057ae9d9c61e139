// Dialling: retries, refusals, deadlines, reconnecting, and the operators' status query.
#include "fixture.h"

namespace guildhall {
namespace {

using boost::asio::ip::tcp;
using ::testing::HasSubstr;

using ControlClientTest = ControlTest;

// An address nobody listens on, until the test does.
std::string free_address() {
  boost::asio::io_context io;
  const tcp::acceptor acceptor(io, {boost::asio::ip::address_v4::loopback(), 0});
  return "127.0.0.1:" + std::to_string(acceptor.local_endpoint().port());
}

TEST_F(ControlClientTest, GivesUpAtTheDeadlineAndNamesWorkerAddressAndCause) {
  address_ = free_address();
  DialOptions options = dial_options();
  options.timeout = std::chrono::milliseconds(500);
  const auto dialed = dial(options);
  ASSERT_FALSE(dialed);
  EXPECT_EQ(dialed.error().code, Code::deadline_exceeded);
  EXPECT_THAT(dialed.error().message, HasSubstr("worker=w0 address=" + address_));
  EXPECT_THAT(dialed.error().message, HasSubstr("Connection refused"));
  EXPECT_THAT(dialed.error().message, HasSubstr("not reached within 500 ms"));
}

TEST_F(ControlClientTest, RetriesUntilTheServerIsThere) {
  address_ = free_address();
  std::promise<Result<DialedLink>> result;
  run_on_io([&] {
    client_ = std::make_unique<ControlClient>(io_);
    client_->dial(dial_options(), hello(), {},
                  [&](const Result<DialedLink>& dialed) { result.set_value(dialed); });
  });
  listen({}, address_);
  const auto dialed = result.get_future().get();
  ASSERT_TRUE(dialed) << to_string(dialed.error());
}

TEST_F(ControlClientTest, AServerThatHangsUpOrIsSilentIsRetriedUntilTheDeadline) {
  boost::asio::io_context io;
  tcp::acceptor acceptor(
      io, {boost::asio::ip::address_v4::loopback(), 0});  // accepts in the kernel, never answers
  address_ = "127.0.0.1:" + std::to_string(acceptor.local_endpoint().port());
  DialOptions options = dial_options();
  options.timeout = std::chrono::milliseconds(1500);
  options.link.handshake_timeout = std::chrono::milliseconds(200);
  const auto dialed = dial(options);
  ASSERT_FALSE(dialed);
  EXPECT_EQ(dialed.error().code, Code::deadline_exceeded);
  EXPECT_THAT(dialed.error().message, HasSubstr("no reply within"));
}

TEST_F(ControlClientTest, AnErrorReplyIsFinal) {
  listen();
  const auto dialed = dial(dial_options(), hello(kControlVersion + (1u << 16)));
  ASSERT_FALSE(dialed);
  EXPECT_EQ(dialed.error().code, Code::unsupported);
  EXPECT_THAT(dialed.error().message, HasSubstr("worker=w0 address=127.0.0.1:"));
  EXPECT_THAT(dialed.error().message, HasSubstr("run one release on all hosts"));
}

TEST_F(ControlClientTest, SomethingElseOnThePortIsFinal) {
  boost::asio::io_context io;
  tcp::acceptor acceptor(io, {boost::asio::ip::address_v4::loopback(), 0});
  address_ = "127.0.0.1:" + std::to_string(acceptor.local_endpoint().port());
  std::thread web([&] {
    tcp::socket socket = acceptor.accept();
    boost::asio::write(socket, boost::asio::buffer(std::string_view("HTTP/1.1 400 Bad Request\r\n\r\n")));
    char buffer[1024];
    boost::system::error_code error;
    while (!error) socket.read_some(boost::asio::buffer(buffer), error);
  });
  const auto dialed = dial(dial_options());
  web.join();
  ASSERT_FALSE(dialed);
  EXPECT_EQ(dialed.error().code, Code::data_loss);
  EXPECT_THAT(dialed.error().message, HasSubstr("is the other end a Guildhall control link?"));
}

TEST_F(ControlClientTest, DialsAgainAfterALinkIsLost) {
  listen();
  ASSERT_TRUE(dial(dial_options()));
  run_on_io([&] { server_.reset(); });
  EXPECT_EQ(client_closed_.pop().code, Code::peer_lost);
  listen({}, address_);
  const auto again = dial(dial_options());
  ASSERT_TRUE(again) << to_string(again.error());
  EXPECT_TRUE(again->link->send(placement(1)));
}

TEST_F(ControlClientTest, MessagesBehindTheReplyComeAfterDone) {
  is_answering_ = false;
  listen();
  std::atomic<bool> is_done{false};
  Events<bool> seen;
  run_on_io([&] {
    client_ = std::make_unique<ControlClient>(io_);
    client_->dial(dial_options(), hello(),
                  {.on_message = [&](const LinkPtr&, const control::Envelope&) { seen.push(is_done); }},
                  [&](const Result<DialedLink>& dialed) { is_done = dialed.has_value(); });
  });
  const Received first = messages_.pop();
  control::Envelope reply, status;
  reply.set_id(first.message.id());
  reply.mutable_hello_reply();
  status.mutable_load_status();
  run_on_io([&] {
    EXPECT_TRUE(first.link->send(reply));
    EXPECT_TRUE(first.link->send(status));
  });
  EXPECT_TRUE(seen.pop());
}

TEST_F(ControlClientTest, DestroyingTheClientAbandonsTheDial) {
  address_ = free_address();
  run_on_io([&] {
    client_ = std::make_unique<ControlClient>(io_);
    client_->dial(dial_options(), hello(), {}, [&](const Result<DialedLink>&) { ADD_FAILURE() << "called"; });
  });
  run_on_io([&] { client_.reset(); });
}

TEST_F(ControlClientTest, UnknownHostsAndMalformedAddressesAreNamed) {
  address_ = "no-port";
  const auto malformed = dial(dial_options());
  ASSERT_FALSE(malformed);
  EXPECT_EQ(malformed.error().code, Code::invalid_argument);
  EXPECT_THAT(malformed.error().message, HasSubstr("worker=w0 address=no-port"));
}

TEST_F(ControlClientTest, StatusIsOneCallForOperators) {
  listen();
  const auto status = query_status(address_, kGuard);
  ASSERT_TRUE(status) << to_string(status.error());
  EXPECT_EQ(status->worker_name(), "w0");
  EXPECT_EQ(status->rows_served(), 42u);
}

TEST_F(ControlClientTest, StatusOfNobodyFailsAtOnce) {
  const std::string nobody = free_address();
  const auto status = query_status(nobody, std::chrono::hours(1));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::peer_lost);
  EXPECT_THAT(status.error().message, HasSubstr("address=" + nobody));
}

}  // namespace
}  // namespace guildhall
