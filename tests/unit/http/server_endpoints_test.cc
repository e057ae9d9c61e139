// The endpoints around completions, and what every answer has in common.
#include <thread>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using testing::HasSubstr;

class Endpoints : public HttpServerTest {};

TEST_F(Endpoints, PortInUseIsAnErrorThatNamesTheAddress) {
  start();
  HttpServerOptions second = options_;
  second.listen = server_->address();
  auto result = HttpServer::start(second, status_);
  ASSERT_FALSE(result.has_value());
  EXPECT_THAT(result.error().message, HasSubstr(server_->address()));
  EXPECT_THAT(result.error().message, HasSubstr("in use"));
}

TEST_F(Endpoints, ListenAddressesThatAreNoneAreRefused) {
  for (const char* listen :
       {"", "8000", ":8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:80x", "::1:80"}) {
    options_.listen = listen;
    auto result = HttpServer::start(options_, status_);
    ASSERT_FALSE(result.has_value()) << listen;
    EXPECT_EQ(result.error().code, Code::invalid_argument) << listen;
  }
  options_.listen = "192.0.2.1:8000";  // TEST-NET: no interface of ours
  EXPECT_EQ(HttpServer::start(options_, status_).error().code, Code::unavailable);
}

TEST_F(Endpoints, HealthTellsProgressUntilReady) {
  start();
  ServingStatus loading;
  loading.message = "2 workers load";
  loading.router_bytes_done = 5;
  loading.router_bytes_total = 10;
  loading.elapsed_s = 1.5;
  loading.workers.push_back({"w0", "127.0.0.1:7000", "loading", 3, 9, 4, 100, "ucx tcp lo", ""});
  loading.workers.push_back({"w1", "127.0.0.1:7001", "failed", 0, 0, 0, 0, "", "disk full"});
  status_.set(loading);
  RawClient client(port());
  EXPECT_EQ(client.get("/live").status, 200);
  RawReply health = client.get("/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(health.headers["retry-after"], "1");
  auto body = health.json();
  EXPECT_EQ(body["state"], "loading");
  EXPECT_EQ(body["message"], "2 workers load");
  EXPECT_EQ(body["elapsed_s"], 1.5);
  EXPECT_EQ(body["router"].at("bytes_done"), 5);
  EXPECT_EQ(body["workers"].at(0).at("bytes_total"), 9);
  EXPECT_EQ(body["workers"].at(1).at("error"), "disk full");

  RawReply early = client.post(kCompletions, R"({"prompt": "a"})");
  EXPECT_EQ(early.status, 503);
  EXPECT_EQ(early.headers["retry-after"], "1");
  EXPECT_EQ(early.headers["retry-after-ms"], "1000");
  EXPECT_EQ(early.error()["code"], "model_not_ready");
  EXPECT_THAT(std::string(early.error()["message"].as_string()), HasSubstr("2 workers load"));
  EXPECT_EQ(client.post("/tokenize", R"({"prompt": "a"})").status, 503);

  server_->attach(engine_, tiny_tokenizer());
  loading.state = ServingState::ready;
  status_.set(loading);
  EXPECT_EQ(client.get("/health").status, 200);
  EXPECT_EQ(client.post(kCompletions, R"({"prompt": "a"})").status, 200);
}

TEST_F(Endpoints, ReadyOnTheBoardIsNotReadyBeforeTheEngineIsAttached) {
  start();
  ServingStatus ready;
  ready.state = ServingState::ready;
  status_.set(ready);
  RawReply health = RawClient(port()).get("/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(health.json()["state"], "loading");
}

TEST_F(Endpoints, ModelsListTheServedOne) {
  start();
  RawClient client(port());
  auto list = client.get("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"].at(0).at("id"), "org/tiny");
  EXPECT_EQ(list["data"].at(0).at("max_model_len"), 1024);
  EXPECT_EQ(client.get("/v1/models/org/tiny").json()["object"], "model");
  EXPECT_EQ(client.get("/v1/models/org%2Ftiny").status, 200);
  RawReply missing = client.get("/v1/models/gpt");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(missing.error()["code"], "model_not_found");
}

TEST_F(Endpoints, TokenizeAndBack) {
  serve();
  RawClient client(port());
  auto body =
      client.post("/tokenize", R"({"model": "org/tiny", "prompt": "hello", "return_token_strs": true})")
          .json();
  EXPECT_EQ(body["count"], 3);
  EXPECT_EQ(body["tokens"], (boost::json::array{kHe, kLl, 'o'}));
  EXPECT_EQ(body["token_strs"], (boost::json::array{"he", "ll", "o"}));
  EXPECT_EQ(client.post("/tokenize", R"({"content": "ab"})").json()["tokens"],
            (boost::json::array{'a', 'b'}));
  auto text = client.post("/detokenize", R"({"tokens": [256, 257, 111]})").json();
  EXPECT_EQ(text["prompt"], "hello");
  EXPECT_EQ(text["content"], "hello");

  EXPECT_EQ(client.post("/tokenize", "{}").error()["param"], "prompt");
  EXPECT_EQ(client.post("/tokenize", R"({"messages": []})").error()["code"], "no_chat_template");
  EXPECT_EQ(client.post("/tokenize", R"({"prompt": "a", "model": "x"})").status, 404);
  EXPECT_EQ(client.post("/detokenize", R"({"tokens": [260]})").status, 400);
  EXPECT_EQ(client.post("/detokenize", R"({"tokens": "a"})").error()["param"], "tokens");
  EXPECT_EQ(client.post("/detokenize", "{").error()["code"], "invalid_json");
}

TEST_F(Endpoints, TokenizerInfoNamesTheSpecialTokens) {
  serve();
  auto info = RawClient(port()).get("/tokenizer_info").json();
  EXPECT_EQ(info["eos_token"], "</s>");
  EXPECT_EQ(info["eos_token_id"], kEos);
  EXPECT_EQ(info["bos_token"], "<s>");
  EXPECT_EQ(info["vocab_size"], kTinyVocab);
}

TEST_F(Endpoints, UnknownPathsAndMethodsGetOpenAIsErrorShape) {
  serve();
  RawClient client(port());
  RawReply missing = client.get("/v1/nothing?x=1");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(missing.error()["type"], "invalid_request_error");
  EXPECT_THAT(std::string(missing.error()["message"].as_string()), HasSubstr("POST /v1/completions"));
  RawReply wrong = client.get(kCompletions);
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers["allow"], "POST, OPTIONS");
  EXPECT_EQ(client.post("/health", "").headers["allow"], "GET, HEAD, OPTIONS");
  client.send("OPTIONS /v1/completions HTTP/1.1\r\nhost: x\r\n\r\n");
  RawReply options = client.read_reply();
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.headers["allow"], "POST, OPTIONS");
  EXPECT_EQ(options.headers.count("content-length"), 0u);
  client.send("OPTIONS /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 404);
}

TEST_F(Endpoints, HeadHasTheHeadersOfGetAndNoBody) {
  serve();
  RawClient client(port());
  client.send("HEAD /v1/models HTTP/1.1\r\nhost: x\r\n\r\n");
  RawReply head = client.read_reply(/*to_head=*/true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(std::stoul(head.headers["content-length"]), client.get("/v1/models").body.size());
}

TEST_F(Endpoints, RequestIdsAreEchoedOrMade) {
  serve();
  RawClient client(port());
  client.send("GET /live HTTP/1.1\r\nhost: x\r\nX-Request-Id: mine-7\r\n\r\n");
  EXPECT_EQ(client.read_reply().headers["x-request-id"], "mine-7");
  client.send("GET /live HTTP/1.1\r\nhost: x\r\nx-request-id: " + std::string(500, 'a') + "\r\n\r\n");
  EXPECT_THAT(client.read_reply().headers["x-request-id"], testing::StartsWith("req-"));
  std::string first = client.get("/live").headers["x-request-id"];
  EXPECT_NE(first, client.get("/live").headers["x-request-id"]);
}

TEST_F(Endpoints, PipelinedRequestsAreAnsweredInOrder) {
  serve();
  RawClient client(port());
  std::string completion = post_bytes(kCompletions, R"({"prompt": "a", "max_tokens": 3})");
  std::string live = "GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
  client.send(completion + live + completion + completion + live);
  EXPECT_EQ(client.read_reply().json()["choices"].at(0).at("text"), "abc");
  EXPECT_EQ(client.read_reply().json()["status"], "live");
  EXPECT_EQ(client.read_reply().json()["object"], "text_completion");
  EXPECT_EQ(client.read_reply().json()["object"], "text_completion");
  EXPECT_EQ(client.read_reply().json()["status"], "live");
}

TEST_F(Endpoints, RequestSentWhileAnotherRunsIsKept) {
  serve();
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": "a"})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  client.send("GET /live HTTP/1.1\r\nho");
  engine_.emit(1, tokens_event({'x'}, FinishReason::length));
  EXPECT_EQ(client.read_reply().json()["choices"].at(0).at("text"), "x");
  client.send("st: x\r\n\r\n");
  EXPECT_EQ(client.read_reply().json()["status"], "live");
}

TEST_F(Endpoints, FloodOfPipelinedRequestsIsAnsweredWhole) {
  serve();
  engine_.hold();
  RawClient client(port());
  client.send(post_bytes(kCompletions, R"({"prompt": "a"})"));
  ASSERT_TRUE(engine_.wait_submitted(1));
  constexpr int kFlood = 20'000;  // 700 kB: more than a connection reads ahead
  std::thread flood([&] {
    std::string all;
    for (int i = 0; i < kFlood; ++i) all += "GET /live HTTP/1.1\r\nhost: test\r\n\r\n";
    EXPECT_TRUE(client.send(all));
  });
  engine_.emit(1, tokens_event({'x'}, FinishReason::length));
  EXPECT_EQ(client.read_reply().json()["choices"].at(0).at("text"), "x");
  int num_good = 0;
  for (int i = 0; i < kFlood; ++i) num_good += client.read_reply().status == 200;
  EXPECT_EQ(num_good, kFlood);
  flood.join();
}

TEST_F(Endpoints, OldAndClosingClientsGetTheirConnectionClosed) {
  serve();
  RawClient old(port());
  old.send("GET /live HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old.read_reply().headers["connection"], "close");
  EXPECT_TRUE(old.at_end());
  RawClient closing(port());
  closing.send("GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
  EXPECT_EQ(closing.read_reply().status, 200);
  EXPECT_TRUE(closing.at_end());
}

TEST_F(Endpoints, ContentTypeDoesNotMatter) {
  serve();
  RawClient client(port());
  std::string body = R"({"prompt": "a"})";
  client.send("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_EQ(client.read_reply().status, 200);
}

TEST_F(Endpoints, ChunkedBodiesAreRead) {
  serve();
  RawClient client(port());
  client.send(
      "POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
      "8\r\n{\"prompt\r\n8\r\n\": \"ab\"}\r\n0\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 200);
}

}  // namespace
}  // namespace guildhall
