// Clients that send too much, too slowly, or nonsense. After each, the server still serves others.
#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using testing::HasSubstr;

class Hostile : public HttpServerTest {
 protected:
  Hostile() {
    options_.max_body_bytes = 64 << 10;
    options_.max_header_bytes = 4 << 10;
  }
  ~Hostile() override {
    EXPECT_EQ(RawClient(port()).get("/live").status, 200);
    int status = 0;  // with few connections allowed, places are freed a moment after their clients left
    for (int i = 0; i < 2000 && status != 200; ++i) {
      if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      status = complete(R"({"prompt": "a", "max_tokens": 1})").status;
    }
    EXPECT_EQ(status, 200);
  }
};

TEST_F(Hostile, HundredMegabyteBodyIsRefusedAndTheClientSeesIt) {
  serve();
  RawClient client(port());
  constexpr size_t kBody = 100 << 20;
  client.send(fmt::format("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", kBody));
  std::string piece(1 << 20, 'x');
  for (size_t sent = 0; sent < kBody; sent += piece.size()) ASSERT_TRUE(client.send(piece)) << sent;
  RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 413);
  EXPECT_EQ(reply.headers["connection"], "close");
  EXPECT_EQ(reply.error()["code"], "body_too_large");
  EXPECT_THAT(std::string(reply.error()["message"].as_string()), HasSubstr("65536 bytes"));
}

TEST_F(Hostile, OversizedBodyIsRefusedBeforeItComes) {
  serve();
  RawClient client(port());
  client.send(
      "POST /tokenize HTTP/1.1\r\nhost: x\r\nx-request-id: big\r\ncontent-length: 104857600\r\nexpect: "
      "100-continue\r\n\r\n");
  RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 413);
  EXPECT_EQ(reply.headers["x-request-id"], "big");
  EXPECT_TRUE(client.at_end());
}

TEST_F(Hostile, OversizedChunkedBodyIsRefused) {
  serve();
  RawClient client(port());
  client.send("POST /tokenize HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
  std::string chunk = fmt::format("{:x}\r\n{}\r\n", 16384, std::string(16384, 'x'));
  for (int i = 0; i < 8; ++i) client.send(chunk);
  EXPECT_EQ(client.read_reply().status, 413);
}

TEST_F(Hostile, LargestBodyIsTaken) {
  serve();
  std::string body = R"({"prompt": "a", "user": ")";
  body += std::string((64 << 10) - body.size() - 2, 'u') + "\"}";
  EXPECT_EQ(complete(body).status, 200);
  EXPECT_EQ(complete(body + " ").status, 413);
}

TEST_F(Hostile, ExpectContinueIsMet) {
  serve();
  RawClient client(port());
  std::string body = R"({"prompt": "a"})";
  client.send(fmt::format(
      "POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
      body.size()));
  EXPECT_EQ(client.read_reply().status, 100);
  client.send(body);
  EXPECT_EQ(client.read_reply().status, 200);
  client.send("POST /tokenize HTTP/1.1\r\nhost: x\r\nexpect: tea\r\ncontent-length: 5\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 417);
}

TEST_F(Hostile, HugeHeadersAre431) {
  serve();
  RawClient client(port());
  client.send("GET /live HTTP/1.1\r\nhost: x\r\nx-filler: " + std::string(20'000, 'a') + "\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 431);
  RawClient path(port());
  path.send("GET /" + std::string(20'000, 'a') + " HTTP/1.1\r\nhost: x\r\n\r\n");
  EXPECT_EQ(path.read_reply().status, 431);
}

TEST_F(Hostile, NonsenseIs400) {
  serve();
  for (const char* bytes : {"hello there, server\r\n\r\n", "GET /live HTTP/9.9\r\n\r\n", "GET\r\n\r\n",
                            "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
                            "POST /tokenize HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
                            "POST /tokenize HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
                            "POST /tokenize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"}) {
    RawClient client(port());
    client.send(bytes);
    RawReply reply = client.read_reply();
    EXPECT_EQ(reply.status, 400) << bytes;
    if (reply.status == 400) {
      EXPECT_EQ(reply.error()["code"], "bad_http") << bytes;
    }
  }
}

TEST_F(Hostile, SlowHeadersAre408) {
  options_.read_timeout = std::chrono::milliseconds(700);
  serve();
  RawClient client(port());
  client.send("GET /live HTTP/1.1\r\nhost:");
  RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 408);
  EXPECT_THAT(std::string(reply.error()["message"].as_string()), HasSubstr("head took longer than 700 ms"));
  EXPECT_TRUE(client.at_end());
}

TEST_F(Hostile, DrippingDoesNotPutOffTheTimeout) {
  options_.read_timeout = std::chrono::milliseconds(300);
  serve();
  RawClient client(port());
  client.send("POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n");
  bool refused = false;  // one header line per 20 ms would take forever to reach any size limit
  for (int i = 0; i < 50 && !refused; ++i) {
    timespec pause{0, 20'000'000};
    nanosleep(&pause, nullptr);
    refused = !client.send(fmt::format("x-{}: y\r\n", i));
  }
  RawReply reply = client.read_reply();
  EXPECT_TRUE(reply.status == 408 || (refused && reply.status == 0)) << reply.status;
}

TEST_F(Hostile, SlowBodiesAre408) {
  options_.read_timeout = std::chrono::milliseconds(700);
  serve();
  RawClient client(port());
  client.send("POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{\"prompt\"");
  RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 408);
  EXPECT_THAT(std::string(reply.error()["message"].as_string()), HasSubstr("body took longer"));
}

TEST_F(Hostile, IdleConnectionsAreClosed) {
  options_.idle_timeout = std::chrono::milliseconds(700);
  serve();
  RawClient never(port()), once(port());
  EXPECT_EQ(once.get("/live").status, 200);
  EXPECT_TRUE(once.at_end());
  EXPECT_TRUE(never.at_end());
}

TEST_F(Hostile, LeavingInTheMiddleOfARequestIsHarmless) {
  serve();
  for (std::string_view part :
       {"G", "GET /live HTTP/1.1\r\n", "POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"}) {
    RawClient client(port());
    client.send(part);
    client.shutdown_write();
    EXPECT_TRUE(client.at_end()) << part;
    RawClient hard(port());
    hard.send(part);
    hard.reset();
  }
}

TEST_F(Hostile, DeepJsonIsRefused) {
  serve();
  RawReply reply = complete("{\"prompt\": " + std::string(50'000, '[') + "}");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.error()["code"], "invalid_json");
}

TEST_F(Hostile, BadUtf8IsRefused) {
  serve();
  EXPECT_EQ(complete("{\"prompt\": \"\xff\xfe\"}").error()["code"], "invalid_json");
  RawClient client(port());
  client.send("GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n");
  RawReply reply = client.read_reply();
  EXPECT_TRUE(reply.status == 400 || reply.status == 404);
  reply.error();  // valid JSON
}

TEST_F(Hostile, BeyondTheConnectionLimitOnlyProbesAreAnswered) {
  options_.max_connections = 1;
  serve();
  RawClient first(port());
  EXPECT_EQ(first.get("/live").status, 200);
  RawClient second(port()), third(port());
  EXPECT_EQ(second.get("/live").status, 200);
  EXPECT_TRUE(second.at_end());
  RawReply refused = third.post(kCompletions, R"({"prompt": "a"})");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers["retry-after"], "1");
  EXPECT_EQ(refused.error()["code"], "too_many_connections");
  EXPECT_EQ(first.post(kCompletions, R"({"prompt": "a"})").status, 200);
}

// A client may leave at the very moment at which the server stops watching for that.
TEST_F(Hostile, WhoLeavesGivesTheirPlaceBackAtOnce) {
  options_.max_connections = 1;
  serve();
  for (int i = 0; i < 300; ++i) {
    int status = 503;  // until the server has seen the last client leave
    for (int tries = 0; tries < 2000 && status != 200; ++tries) {
      if (tries > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      status = complete(R"({"prompt": "a", "max_tokens": 1})").status;
    }
    ASSERT_EQ(status, 200) << i;
  }
}

}  // namespace
}  // namespace guildhall
