// peers_test.cc: two real servers in one process, each with an engine that the test plays, as each other's
// peers.
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <thread>

#include "router/http/upstream.h"
#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(UpstreamHead, IsReadAsOurServersWriteIt) {
  const auto head = parse_upstream_head(
      "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\ncontent-length: 17\r\nx: y\r\n\r\n");
  ASSERT_TRUE(head);
  EXPECT_EQ(head->status, 404);
  EXPECT_EQ(head->content_type, "application/json");
  EXPECT_EQ(head->content_length, 17u);
  EXPECT_FALSE(parse_upstream_head("HTTP/1.1 200 OK\r\n\r\n")->content_length);
  EXPECT_FALSE(parse_upstream_head("HTTP/1.0 200 OK\r\ncontent-length: x\r\n\r\n")->content_length);
}

TEST(UpstreamHead, WhatIsNoneIsRefused) {
  for (const char* bytes :
       {"", "HTTP/1.1", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "220 ftp ready\r\n"})
    EXPECT_FALSE(parse_upstream_head(bytes)) << bytes;
}

// An engine that says how much a request would meet there.
class LoadedEngine : public FakeEngine {
 public:
  SpreadCandidate preview(const EngineRequest&) override { return {.outstanding_tokens = outstanding}; }
  std::atomic<int64_t> outstanding{0};
};

struct Node {
  Node() {
    options.listen = "127.0.0.1:0";
    options.model_name = "org/tiny";
    options.max_model_len = 1024;
    options.peers.margin = 100;
    options.peers.interval = std::chrono::milliseconds(10);
  }
  void add_peer(const std::string& name, uint16_t port) {
    options.peers.peers.push_back({name, {"127.0.0.1", port}});
  }
  void serve() {
    server = HttpServer::start(options, status).value();
    server->attach(engine, tiny_tokenizer());
    ServingStatus ready;
    ready.state = ServingState::ready;
    ready.replicas.push_back({.name = "r", .serving = true});
    status.set(ready);
  }
  std::string peer_state() const {
    const auto health = RawClient(server->port()).get("/health").json();
    return std::string(health.at("peers").at(0).at("state").as_string());
  }
  // Until /health says so of the first peer.
  void await_peer(std::string_view state) const {
    const auto limit = Clock::now() + std::chrono::seconds(60);
    while (peer_state() != state) {
      ASSERT_LT(Clock::now(), limit);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  HttpServerOptions options;
  FakeStatus status;
  LoadedEngine engine;
  std::unique_ptr<HttpServer> server;  // destroyed first
};

class PeersTest : public testing::Test {
 protected:
  // `here_` knows `there_` and has more to do.
  void start() {
    there_.serve();
    here_.add_peer("r1", there_.server->port());
    here_.engine.outstanding = 1000;
    here_.serve();
    here_.await_peer("ready");
  }
  RawClient client() const { return RawClient(here_.server->port()); }
  RawReply complete(std::string_view body, std::string_view headers = "") const {
    RawClient client(here_.server->port());
    client.send(post_bytes(kCompletions, body, headers));
    return client.read_reply();
  }
  void begin_stream(RawClient& client);
  static size_t served(const Node& node) { return node.engine.requests().size(); }

  Node there_, here_;
};

constexpr std::string_view kBody = R"({"prompt": "a", "max_tokens": 3})";
constexpr std::string_view kStream = R"({"prompt": "a", "max_tokens": 3, "stream": true})";

// A forwarded stream, as far as its first token.
void PeersTest::begin_stream(RawClient& client) {
  there_.engine.hold();
  client.send(post_bytes(kCompletions, kStream));
  ASSERT_TRUE(there_.engine.wait_submitted(1));
  there_.engine.emit(1, tokens_event({1}));
  EXPECT_EQ(client.read_head().status, 200);
  EXPECT_THAT(client.read_event().value(), StartsWith("data: {"));
}

TEST_F(PeersTest, ALessLoadedPeerAnswers) {
  start();
  RawReply reply = complete(kBody, "x-request-id: mine\r\n");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers["x-request-id"], "mine");
  EXPECT_EQ(reply.headers["connection"], "keep-alive");
  EXPECT_EQ(reply.json().at("usage").at("completion_tokens"), 3);
  EXPECT_EQ(served(here_), 0u);
  EXPECT_EQ(served(there_), 1u);
  EXPECT_THAT(client().get("/metrics").body, HasSubstr(R"(guildhall_peer_requests_total{peer="r1"} 1)"));
}

TEST_F(PeersTest, OnlyAMarginIsWorthTheWay) {
  start();
  here_.engine.outstanding = 99;
  EXPECT_EQ(complete(kBody).status, 200);
  EXPECT_EQ(served(here_), 1u);
  here_.engine.outstanding = 10'000;
  EXPECT_EQ(complete(kBody).status, 200);
  EXPECT_EQ(served(there_), 1u);
}

TEST_F(PeersTest, ConnectionsStayOpenAfterAForwardedRequest) {
  start();
  RawClient one(here_.server->port());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(one.post(kCompletions, kBody).status, 200);
  for (int i = 0; i < 2; ++i) {
    one.send(post_bytes(kCompletions, kStream));
    EXPECT_EQ(one.read_head().status, 200);
    std::string last;
    while (auto event = one.read_event()) last = *event;
    EXPECT_EQ(last, "data: [DONE]");
  }
  EXPECT_EQ(served(there_), 5u);
}

TEST_F(PeersTest, AStreamComesEventByEvent) {
  start();
  RawClient one(here_.server->port());
  begin_stream(one);
  there_.engine.emit(1, tokens_event({1}, FinishReason::length));
  std::string last;
  while (auto event = one.read_event()) last = *event;
  EXPECT_EQ(last, "data: [DONE]");
}

TEST_F(PeersTest, AClientThatLeavesCancelsThere) {
  there_.engine.hold();
  start();
  for (const std::string_view body : {kBody, kStream}) {
    RawClient one(here_.server->port());
    one.send(post_bytes(kCompletions, body));
    ASSERT_TRUE(there_.engine.wait_submitted(body == kBody ? 1 : 2));
    one.close();
    EXPECT_TRUE(there_.engine.wait_cancelled(body == kBody ? 1 : 2));
  }
  EXPECT_EQ(served(here_), 0u);
}

TEST_F(PeersTest, ARequestGoesOneHop) {
  Node third;
  third.serve();
  there_.add_peer("r2", third.server->port());
  there_.engine.outstanding = 1'000'000;
  start();
  there_.await_peer("ready");
  EXPECT_EQ(complete(kBody).status, 200);
  EXPECT_EQ(served(there_), 1u);
  EXPECT_EQ(served(third), 0u);
}

TEST_F(PeersTest, WhatAPeerRefusesIsServedHere) {
  start();
  there_.engine.refuse_after(0, {Code::resource_exhausted, "full"});
  EXPECT_EQ(complete(kBody).status, 200);
  EXPECT_EQ(complete(kStream).status, 200);
  EXPECT_EQ(served(here_), 2u);
}

TEST_F(PeersTest, WhatCannotBeServedHereGoesToAPeer) {
  start();
  here_.engine.outstanding = 0;
  here_.engine.refuse_after(0, {Code::unavailable, "a worker is lost"});
  EXPECT_EQ(complete(kBody).status, 200);
  EXPECT_EQ(served(there_), 1u);
}

TEST_F(PeersTest, ErrorsOfTheRequestAreNotForwarded) {
  start();
  EXPECT_EQ(complete(R"({"prompt": "a", "max_tokens": -1})").status, 400);
  EXPECT_EQ(served(there_), 0u);
}

TEST_F(PeersTest, APeerThatDiesBeforeItsFirstByteIsReplacedByUs) {
  there_.engine.hold();
  start();
  RawClient one(here_.server->port()), other(here_.server->port());
  one.send(post_bytes(kCompletions, kBody));
  ASSERT_TRUE(there_.engine.wait_submitted(1));
  here_.await_peer("ready");
  other.send(post_bytes(kCompletions, kStream));
  ASSERT_TRUE(there_.engine.wait_submitted(2));
  there_.server->stop(std::chrono::milliseconds(0));
  EXPECT_EQ(one.read_reply().json().at("usage").at("completion_tokens"), 3);
  EXPECT_EQ(other.read_head().status, 200);
  EXPECT_EQ(served(here_), 2u);
  here_.await_peer("left out");
  EXPECT_EQ(complete(kBody).status, 200);
}

TEST_F(PeersTest, AStreamThatBreaksOffEndsWithAnError) {
  start();
  RawClient one(here_.server->port());
  begin_stream(one);
  there_.server->stop(std::chrono::milliseconds(0));
  EXPECT_THAT(one.read_event().value(), HasSubstr("peer_lost"));
  EXPECT_EQ(one.read_event().value(), "data: [DONE]");
  EXPECT_EQ(one.read_event(), std::nullopt);
  EXPECT_EQ(one.get("/live").status, 200);  // and the connection goes on
}

TEST_F(PeersTest, APeerThatSaysNothingIsLeftOut) {
  namespace asio = boost::asio;
  asio::io_context io;
  asio::ip::tcp::acceptor mute(io, {asio::ip::make_address("127.0.0.1"), 0});
  here_.add_peer("mute", mute.local_endpoint().port());
  here_.engine.outstanding = 1'000'000;
  here_.serve();
  EXPECT_EQ(complete(kBody).status, 200);
  EXPECT_EQ(here_.peer_state(), "left out");
  EXPECT_EQ(served(here_), 1u);
}

TEST_F(PeersTest, TheApiKeyGoesAlong) {
  there_.options.api_keys = here_.options.api_keys =
      ApiKeys::parse("alice alices-own-secret\nbob bobs-own-secret-key\n", "keys").value();
  start();
  EXPECT_EQ(complete(kBody, "authorization: Bearer bobs-own-secret-key\r\n").status, 200);
  ASSERT_EQ(served(there_), 1u);
  EXPECT_EQ(there_.engine.requests()[0].tenant, "bob");
  EXPECT_EQ(complete(kBody, "authorization: Bearer somebody-elses-key\r\n").status, 401);
  EXPECT_EQ(served(there_), 1u);
}

}  // namespace
}  // namespace guildhall
