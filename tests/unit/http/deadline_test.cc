#include "router/http/deadline.h"

#include "router/http/generation.h"
#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using testing::HasSubstr;

const Clock::time_point kBegin{std::chrono::hours(1000)};

TEST(CallDeadline, WithoutLimitsNothingExpires) {
  const CallDeadline deadline(kBegin, {}, std::nullopt);
  EXPECT_FALSE(deadline.expired(kBegin + hours(9999), false));
  EXPECT_EQ(deadline.wait_time(kBegin + hours(9999), false, milliseconds(70)), milliseconds(70));
}

TEST(CallDeadline, TheFirstTokenHasALimitOfItsOwn) {
  const CallDeadline deadline(kBegin, {.first_token = milliseconds(100), .whole = milliseconds(500)}, {});
  EXPECT_EQ(deadline.wait_time(kBegin + milliseconds(30), false, hours(1)), milliseconds(70));
  EXPECT_EQ(deadline.wait_time(kBegin + milliseconds(30), true, hours(1)), milliseconds(470));
  EXPECT_TRUE(deadline.expired(kBegin + milliseconds(100), false));
  EXPECT_FALSE(deadline.expired(kBegin + milliseconds(100), true));
  EXPECT_TRUE(deadline.expired(kBegin + milliseconds(500), true));
  EXPECT_EQ(deadline.error(kBegin + milliseconds(100)).http_status, 503);
  EXPECT_THAT(deadline.error(kBegin + milliseconds(100)).message,
              HasSubstr("100 ms (router.http.first_token_timeout)"));
}

TEST(CallDeadline, TheClientsTimeoutShortensTheServers) {
  const CallDeadline shorter(kBegin, {.whole = milliseconds(500)}, milliseconds(200));
  EXPECT_TRUE(shorter.expired(kBegin + milliseconds(200), true));
  EXPECT_EQ(shorter.error(kBegin + milliseconds(200)).http_status, 408);
  EXPECT_EQ(shorter.error(kBegin + milliseconds(200)).param, "timeout");
  const CallDeadline longer(kBegin, {.whole = milliseconds(500)}, milliseconds(9000));
  EXPECT_TRUE(longer.expired(kBegin + milliseconds(500), true));
  EXPECT_EQ(longer.error(kBegin + milliseconds(500)).http_status, 503);
  EXPECT_THAT(longer.error(kBegin + milliseconds(500)).message, HasSubstr("router.http.request_timeout"));
}

class Deadlines : public HttpServerTest {};

TEST_F(Deadlines, ACallWithoutTokensInItsTimeIsAnswered408) {
  engine_.hold();
  serve();
  const RawReply reply = complete(R"({"prompt": "a", "n": 2, "timeout": 0.05})");
  EXPECT_EQ(reply.status, 408);
  EXPECT_EQ(reply.headers.at("x-should-retry"), "false");  // it would run out again
  EXPECT_EQ(reply.error()["param"], "timeout");
  EXPECT_TRUE(engine_.wait_cancelled(2));
}

TEST_F(Deadlines, TheServersOwnLimitIsAnswered503WithRetryAfter) {
  options_.limits.first_token = milliseconds(50);
  engine_.hold();
  serve();
  RawReply reply = complete(R"({"prompt": "a", "stream": true})");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.headers["retry-after"], "1");
  EXPECT_EQ(reply.headers["x-should-retry"], "true");
  EXPECT_EQ(reply.error()["code"], "deadline_exceeded");
  EXPECT_TRUE(engine_.wait_cancelled(1));
}

TEST(GenerationExpires, ACallUnderWayEndsWithWhatItHas) {
  FakeEngine engine;
  engine.hold();
  CompletionCall call;
  call.prompts.push_back({{1, 2}, std::nullopt});
  call.num_choices = call.best_of = 3;
  call.max_tokens = 9;
  auto started = Generation::start(engine, tiny_tokenizer(), call, [] {});
  ASSERT_TRUE(started);
  const std::unique_ptr<Generation> generation = *std::move(started);
  engine.emit(1, tokens_event({1, 2}));
  engine.emit(2, tokens_event({1}, FinishReason::length));
  const auto limit = Clock::now() + std::chrono::seconds(60);
  while (generation->usage().completion_tokens < 3 && Clock::now() < limit) generation->pump();
  generation->expire({503, "too late", "", ""});
  std::map<int, std::string> reason_of;
  for (const ChoiceDelta& delta : generation->pump()) reason_of[delta.index] = delta.finish_reason.value();
  EXPECT_EQ(reason_of, (std::map<int, std::string>{{0, "abort"}, {2, "abort"}}));
  EXPECT_TRUE(generation->done());
  EXPECT_FALSE(generation->error());
  EXPECT_TRUE(engine.wait_cancelled(2));
  EXPECT_EQ(engine.cancelled(), (std::set<RequestId>{1, 3}));
}

TEST(GenerationExpires, ACallWithoutTokensEndsWithTheError) {
  FakeEngine engine;
  engine.hold();
  CompletionCall call;
  call.prompts.push_back({{1, 2}, std::nullopt});
  auto started = Generation::start(engine, tiny_tokenizer(), call, [] {});
  ASSERT_TRUE(started);
  const std::unique_ptr<Generation> generation = *std::move(started);
  generation->expire({503, "too late", "", ""});
  EXPECT_TRUE(generation->done());
  EXPECT_EQ(generation->error().value().message, "too late");
  EXPECT_TRUE(engine.wait_cancelled(1));
}

TEST_F(Deadlines, ATimeoutMustBeAPositiveNumberOfSeconds) {
  serve();
  for (const char* timeout : {"0", "-1", "\"5\"", "1e9"}) {
    RawReply reply = complete(std::string(R"({"prompt": "a", "timeout": )") + timeout + "}");
    EXPECT_EQ(reply.status, 400) << timeout;
    EXPECT_EQ(reply.error()["param"], "timeout") << timeout;
  }
  EXPECT_EQ(complete(R"({"prompt": "a", "timeout": 100})").status, 200);
}

}  // namespace
}  // namespace guildhall
