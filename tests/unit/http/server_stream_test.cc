// Streaming completions: events, pings, leaving clients, many at once, shutdown.
#include <atomic>
#include <thread>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using boost::json::array;
using boost::json::object;

class Stream : public HttpServerTest {
 protected:
  // Sends a streaming request and waits until the engine has all its sequences.
  void open(RawClient& client, std::string body_fields, size_t num_sequences = 1) {
    client.send(post_bytes(kCompletions, R"({"stream": true, )" + body_fields + "}"));
    ASSERT_TRUE(engine_.wait_submitted(num_sequences));
  }
};

object data_of(const std::optional<std::string>& event) {
  if (!event || !event->starts_with("data: {")) {
    ADD_FAILURE() << "not a data event: " << event.value_or("(end)");
    return {};
  }
  return boost::json::parse(event->substr(6)).as_object();
}

std::string text_of(const object& chunk) {
  return std::string(chunk.at("choices").at(0).at("text").as_string());
}

// Reads to [DONE] and returns the text per choice.
std::map<int64_t, std::string> read_texts(RawClient& client) {
  std::map<int64_t, std::string> texts;
  while (auto event = client.read_event()) {
    if (*event == "data: [DONE]") return texts;
    object chunk = data_of(event);
    for (const auto& choice : chunk["choices"].as_array())
      texts[choice.at("index").as_int64()] += std::string(choice.at("text").as_string());
  }
  ADD_FAILURE() << "the stream ended without [DONE]";
  return texts;
}

TEST_F(Stream, EventsCarryTextAsItComes) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "hello", "stream_options": {"include_usage": true})");
  engine_.emit(1, tokens_event({'a'}));
  RawReply head = client.read_head();
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers["content-type"], "text/event-stream; charset=utf-8");
  object first = data_of(client.read_event());
  EXPECT_EQ(first["object"], "text_completion");
  EXPECT_EQ(text_of(first), "a");
  EXPECT_TRUE(first["choices"].at(0).at("finish_reason").is_null());
  EXPECT_TRUE(first["usage"].is_null());
  engine_.emit(1, tokens_event({'b', 'c'}));
  object second = data_of(client.read_event());
  EXPECT_EQ(text_of(second), "bc");
  EXPECT_EQ(second["id"], first["id"]);
  engine_.emit(1, tokens_event({}, FinishReason::length));
  object last = data_of(client.read_event());
  EXPECT_EQ(last["choices"].at(0).at("finish_reason"), "length");
  object usage = data_of(client.read_event());
  EXPECT_EQ(usage["choices"], array{});
  EXPECT_EQ(usage["usage"], (object{{"prompt_tokens", 3},
                                    {"completion_tokens", 3},
                                    {"total_tokens", 6},
                                    {"prompt_tokens_details", {{"cached_tokens", 0}}}}));
  EXPECT_EQ(client.read_event(), "data: [DONE]");
  EXPECT_EQ(client.read_event(), std::nullopt);
  EXPECT_EQ(client.get("/live").status, 200);  // the connection goes on
}

// Clients that cut a stream into lines as Python does would break the event at these.
TEST_F(Stream, CharactersThatPythonTakesForLineEndsAreEscaped) {
  serve();
  const std::string text = "a\xc2\x85\x1c\x0b-\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\x94";
  engine_.set_reply(byte_ids(text));
  RawClient client(port());
  open(client, R"("prompt": "x", "max_tokens": )" + std::to_string(text.size()));
  client.read_head();
  std::string got, events;
  while (auto event = client.read_event()) {
    if (*event == "data: [DONE]") break;
    events += *event;
    got += text_of(data_of(event));
  }
  EXPECT_EQ(got, text);
  for (const char* character : {"\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9", "\x1c", "\x0b"})
    EXPECT_EQ(events.find(character), std::string::npos);
  EXPECT_NE(events.find("\xe2\x80\x94"), std::string::npos);  // a dash is no line end
}

TEST_F(Stream, WithoutIncludeUsageThereIsNone) {
  serve();
  RawReply reply = complete(R"({"prompt": "a", "stream": true, "max_tokens": 2})");
  EXPECT_EQ(reply.body.find("usage"), std::string::npos);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(Stream, ChoicesInterleaveByIndex) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": ["x", "y"], "n": 2, "echo": true)", 4);
  engine_.emit(3, tokens_event({'c'}));
  client.read_head();
  object chunk = data_of(client.read_event());
  EXPECT_EQ(chunk["choices"].at(0).at("index"), 2);
  EXPECT_EQ(text_of(chunk), "yc");
  for (RequestId id : {2, 1, 4, 3})
    engine_.emit(id, tokens_event({'0' + static_cast<int32_t>(id)}, FinishReason::stop));
  EXPECT_EQ(read_texts(client), (std::map<int64_t, std::string>{{0, "x1"}, {1, "x2"}, {2, "3"}, {3, "y4"}}));
}

TEST_F(Stream, LogprobsComeWithTheirText) {
  serve();
  engine_.set_reply({'a', 'b'});
  RawClient client(port());
  open(client, R"("prompt": "hello", "echo": true, "logprobs": 1, "max_tokens": 3)");
  client.read_head();
  array tokens, offsets;
  while (auto event = client.read_event()) {
    if (*event == "data: [DONE]") break;
    object logprobs = data_of(event)["choices"].at(0).at("logprobs").as_object();
    for (auto& token : logprobs["tokens"].as_array()) tokens.push_back(token);
    for (auto& offset : logprobs["text_offset"].as_array()) offsets.push_back(offset);
  }
  EXPECT_EQ(tokens, (array{"he", "ll", "o", "a", "b", "a"}));
  EXPECT_EQ(offsets, (array{0, 2, 4, 5, 6, 7}));
}

TEST_F(Stream, StopStringNeverLeaks) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "x", "stop": "\n\nQ:")");
  for (int32_t id : byte_ids("A: 4\n\nQ: more")) engine_.emit(1, tokens_event({id}));
  client.read_head();
  EXPECT_EQ(read_texts(client)[0], "A: 4");
  EXPECT_TRUE(engine_.wait_cancelled(1));
}

TEST_F(Stream, SplitCharactersArriveWhole) {
  serve();
  engine_.set_reply(byte_ids("é😀"));
  RawClient client(port());
  open(client, R"("prompt": "x", "max_tokens": 12)");
  client.read_head();
  EXPECT_EQ(read_texts(client)[0], "é😀é😀");  // a half character would not parse as JSON
}

TEST_F(Stream, BacklogIsBatchedIntoOneEvent) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "x")");
  EngineEvent all = tokens_event(byte_ids("many tokens"), FinishReason::length);
  engine_.emit(1, std::move(all));
  client.read_head();
  object chunk = data_of(client.read_event());
  EXPECT_EQ(text_of(chunk), "many tokens");
  EXPECT_EQ(chunk["choices"].at(0).at("finish_reason"), "length");
}

TEST_F(Stream, TokensThatComeFasterThanTheyAreSentAllArrive) {
  serve();
  engine_.set_reply(byte_ids("abcdefg"));
  RawClient client(port());
  open(client, R"("prompt": "x", "n": 8, "max_tokens": 700)", 8);
  client.read_head();
  std::string expected;
  for (int i = 0; i < 100; ++i) expected += "abcdefg";
  const std::map<int64_t, std::string> texts = read_texts(client);
  EXPECT_EQ(texts.size(), 8u);
  for (const auto& [index, text] : texts) EXPECT_EQ(text, expected) << index;
}

TEST_F(Stream, SilenceIsFilledWithPings) {
  options_.ping_interval = std::chrono::milliseconds(20);
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "x")");
  EXPECT_EQ(client.read_head().status, 200);
  EXPECT_EQ(client.read_event(), ": ping");
  EXPECT_EQ(client.read_event(), ": ping");
  engine_.emit(1, tokens_event({'a'}, FinishReason::length));
  std::optional<std::string> event;
  while ((event = client.read_event()) == ": ping") {
  }
  EXPECT_EQ(text_of(data_of(event)), "a");
}

TEST_F(Stream, ErrorBeforeTheFirstEventIsAnHttpError) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "x")");
  EngineEvent event = tokens_event({}, FinishReason::error);
  event.error = Status{Code::internal, "the step failed"};
  engine_.emit(1, std::move(event));
  RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(reply.error()["type"], "server_error");
}

TEST_F(Stream, ErrorInTheMiddleIsAnEvent) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "x")");
  engine_.emit(1, tokens_event({'a'}));
  client.read_head();
  EXPECT_EQ(text_of(data_of(client.read_event())), "a");
  EngineEvent event = tokens_event({}, FinishReason::error);
  event.error = Status{Code::peer_lost, "worker=w0: lost"};
  engine_.emit(1, std::move(event));
  EXPECT_EQ(data_of(client.read_event())["error"].at("message"), "worker=w0: lost");
  EXPECT_EQ(client.read_event(), "data: [DONE]");
}

TEST_F(Stream, ClientThatLeavesWhileNothingComesIsNoticed) {
  serve();
  engine_.hold();
  RawClient client(port());
  open(client, R"("prompt": "x", "n": 2)", 2);
  engine_.emit(1, tokens_event({'a'}));
  client.read_head();
  client.close();
  EXPECT_TRUE(engine_.wait_cancelled(2));
}

TEST_F(Stream, ClientThatDoesNotReadIsCutAtTheWriteTimeout) {
  options_.write_timeout = std::chrono::milliseconds(200);
  serve();
  engine_.hold();
  RawClient client(port(), /*receive_buffer_bytes=*/4096);
  open(client, R"("prompt": "x", "logprobs": 20, "ignore_eos": true, "max_tokens": 1000)");
  for (int burst = 0; burst < 20; ++burst) {  // some 12 MB of events: more than the kernel takes for us
    EngineEvent event = tokens_event(std::vector<int32_t>(1000, 'a'));
    for (int i = 0; i < 1000; ++i) event.logprobs.push_back(fake_logprobs('a', 20));
    engine_.emit(1, std::move(event));
  }
  EXPECT_TRUE(engine_.wait_cancelled(1));
}

TEST_F(Stream, OldClientsGetAPlainStream) {
  serve();
  RawClient client(port());
  std::string body = R"({"prompt": "x", "stream": true, "max_tokens": 2})";
  client.send("POST /v1/completions HTTP/1.0\r\ncontent-length: " + std::to_string(body.size()) + "\r\n\r\n" +
              body);
  RawReply head = client.read_head();
  EXPECT_EQ(head.headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(head.headers["connection"], "close");
  std::string events = client.read_to_end();
  EXPECT_TRUE(events.starts_with("data: {"));
  EXPECT_TRUE(events.ends_with("data: [DONE]\n\n"));
}

TEST_F(Stream, ThirtyTwoAtOnce) {
  serve();
  std::atomic<int> good{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 32; ++i)
    clients.emplace_back([&] {
      RawClient client(port());
      for (int round = 0; round < 2; ++round) {
        client.send(post_bytes(kCompletions, R"({"prompt": "x", "stream": true, "max_tokens": 200})"));
        client.read_head();
        std::string expected;
        while (expected.size() < 200) expected += "abc";
        expected.resize(200);
        if (read_texts(client)[0] == expected && client.read_event() == std::nullopt) ++good;
      }
    });
  for (auto& client : clients) client.join();
  EXPECT_EQ(good, 64);
}

TEST_F(Stream, ShutdownLetsStreamsEndWithinTheLimit) {
  serve();
  engine_.hold();
  RawClient streaming(port()), idle(port());
  open(streaming, R"("prompt": "x")");
  EXPECT_EQ(idle.get("/live").status, 200);
  engine_.emit(1, tokens_event({'a'}));
  streaming.read_head();
  std::thread stopper([this] { server_->stop(std::chrono::seconds(20)); });
  EXPECT_TRUE(idle.at_end());
  EXPECT_THROW(
      {
        for (int i = 0; i < 1000; ++i) {
          RawClient late(port());
          if (late.get("/live").status == 0) throw std::runtime_error("closed");
        }
      },
      std::runtime_error);
  engine_.emit(1, tokens_event({'b'}, FinishReason::length));
  EXPECT_EQ(read_texts(streaming)[0], "ab");
  streaming.close();
  stopper.join();
  EXPECT_TRUE(engine_.cancelled().empty());
}

TEST_F(Stream, ShutdownCutsWhatGoesOnTooLong) {
  serve();
  engine_.hold();
  RawClient streaming(port()), whole(port());
  open(streaming, R"("prompt": "x")");
  whole.send(post_bytes(kCompletions, R"({"prompt": "y"})"));
  ASSERT_TRUE(engine_.wait_submitted(2));
  engine_.emit(1, tokens_event({'a'}));
  streaming.read_head();
  server_->stop(std::chrono::milliseconds(50));
  EXPECT_TRUE(engine_.wait_cancelled(2));
  EXPECT_EQ(whole.read_reply().status, 0);
  server_.reset();
  engine_.emit(1, tokens_event({'b'}));  // sinks outlive the server without harm
  EXPECT_TRUE(streaming.read_to_end().ends_with("\n\n\r\n"));
}

}  // namespace
}  // namespace guildhall
