// front_end_test.cc: the front end over engines that the test plays.
#include "router/front_end.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

namespace guildhall {
namespace {

using ::testing::HasSubstr;

// Keeps what it is sent; the test says what comes of it.
class PlayedEngine final : public EngineClient {
 public:
  Result<RequestId> submit(EngineRequest request, EventSink sink) override {
    std::lock_guard lock(mutex_);
    if (refusal) return *refusal;
    live_[++last_id_] = {std::move(request), std::move(sink)};
    return last_id_;
  }
  void cancel(RequestId id) override { cancelled.push_back(id); }
  EngineCounters counters() const override { return reported; }
  bool paused() const override { return is_paused; }

  void emit(RequestId id, EngineEvent event) {
    const bool last = event.finish.has_value();
    EventSink sink = live_.at(id).second;
    sink(std::move(event));
    if (last) live_.erase(id);
  }
  size_t num_live() {
    std::lock_guard lock(mutex_);
    return live_.size();
  }

  std::optional<Status> refusal;
  bool is_paused = false;
  std::vector<RequestId> cancelled;
  EngineCounters reported;

 private:
  std::mutex mutex_;
  RequestId last_id_ = 0;
  std::map<RequestId, std::pair<EngineRequest, EventSink>> live_;
};

class FrontEndTest : public ::testing::Test {
 protected:
  static EngineRequest request(int text, size_t prompt_tokens, int32_t max_tokens = 10) {
    EngineRequest request;
    request.prompt_ids.assign(prompt_tokens, text);
    request.max_tokens = max_tokens;
    return request;
  }
  RequestId submit(EngineRequest request) {
    return front_end_.submit(std::move(request), [this](EngineEvent&&) { ++num_events_; }).value();
  }
  std::vector<int64_t> outstanding() const {
    std::vector<int64_t> all;
    for (const ReplicaStatus& replica : front_end_.replicas()) all.push_back(replica.outstanding_tokens);
    return all;
  }
  using Tokens = std::vector<int64_t>;

  PlayedEngine a_, b_;
  EngineClient* const engines_[2] = {&a_, &b_};
  FrontEnd front_end_{{.names = {"r0/0", "r0/1"}, .block_size = 16, .prefix_affinity = 64}, engines_};
  int num_events_ = 0;
};

TEST_F(FrontEndTest, OutstandingTokensGoDownAsTheyAreComputed) {
  submit(request(1, 100));
  EXPECT_EQ(outstanding(), (Tokens{110, 0}));
  a_.emit(1, {});  // prompt scores only
  EXPECT_EQ(outstanding(), (Tokens{110, 0}));
  a_.emit(1, {.tokens = {5}});
  EXPECT_EQ(outstanding(), (Tokens{9, 0}));
  a_.emit(1, {.tokens = {5, 5, 5}});
  EXPECT_EQ(front_end_.outstanding_tokens(), 6);
  a_.emit(1, {.finish = FinishReason::stop});
  EXPECT_EQ(outstanding(), (Tokens{0, 0}));
  EXPECT_EQ(num_events_, 4);
}

TEST_F(FrontEndTest, ALongAnswerCountsAsABoundedOneAndAtLeastAsOneToken) {
  submit(request(1, 10, 100'000));
  EXPECT_EQ(outstanding(), (Tokens{10 + kExpectedTokens, 0}));
  a_.emit(1, {.tokens = std::vector<int32_t>(2 * kExpectedTokens, 7)});
  EXPECT_EQ(outstanding(), (Tokens{1, 0}));
  a_.emit(1, {.tokens = {7}});
  EXPECT_EQ(outstanding(), (Tokens{1, 0}));
}

TEST_F(FrontEndTest, RequestsGoWhereTheFewestTokensAreOutstanding) {
  submit(request(1, 100));
  submit(request(2, 30));
  submit(request(3, 30));
  submit(request(4, 30));
  EXPECT_EQ(outstanding(), (Tokens{110, 120}));
  EXPECT_EQ(a_.num_live(), 1u);
  EXPECT_EQ(b_.num_live(), 3u);
}

TEST_F(FrontEndTest, AReplicaThatIsPausedIsTheLastChoice) {
  b_.is_paused = true;
  for (int i = 0; i < 3; ++i) submit(request(1, 1000));
  EXPECT_EQ(b_.num_live(), 0u);
  EXPECT_LT(front_end_.preview(request(1, 10)).handicap, 1);
  a_.is_paused = true;
  submit(request(2, 10));
  EXPECT_EQ(b_.num_live(), 1u);                                       // to the less loaded, where it waits
  EXPECT_GT(front_end_.preview(request(1, 10)).handicap, 1'000'000);  // any peer is better
}

TEST_F(FrontEndTest, ASharedPrefixDrawsUntilTheLoadIsTooUneven) {
  submit(request(1, 40));  // to a: 50 outstanding; 32 of its tokens are in full blocks
  submit(request(1, 40));  // 50 - 32 against 0: to b, which then has them as well
  EXPECT_EQ(outstanding(), (Tokens{50, 50}));
  b_.emit(1, {.finish = FinishReason::stop});
  submit(request(2, 64));       // to b: 74
  b_.emit(2, {.tokens = {7}});  // 9
  a_.emit(1, {.tokens = {7}});  // 9
  submit(request(3, 10));       // to a: 29
  submit(request(4, 30));       // to b: 49
  submit(request(2, 64));       // 29 against 49 - 64: to b
  EXPECT_EQ(outstanding(), (Tokens{29, 123}));
  submit(request(2, 200));  // 29 against 123 - 64: to a
  EXPECT_EQ(outstanding(), (Tokens{239, 123}));
}

TEST_F(FrontEndTest, ChoicesOfOnePromptStayTogether) {
  const RequestId first = submit(request(1, 3));
  for (int i = 0; i < 3; ++i) {
    EngineRequest next = request(1, 3);
    next.beside = first;
    submit(std::move(next));
  }
  EXPECT_EQ(a_.num_live(), 4u);
  EXPECT_EQ(b_.num_live(), 0u);
}

TEST_F(FrontEndTest, CancelGoesToTheReplicaThatHasTheRequest) {
  const RequestId first = submit(request(1, 10)), second = submit(request(2, 10));
  EXPECT_NE(first, second);
  front_end_.cancel(second);
  front_end_.cancel(first);
  EXPECT_EQ(a_.cancelled, (std::vector<RequestId>{1}));
  EXPECT_EQ(b_.cancelled, (std::vector<RequestId>{1}));
}

TEST_F(FrontEndTest, AFullOrLostReplicaIsPassedOver) {
  a_.refusal = Status{Code::resource_exhausted, "7 requests are waiting"};
  submit(request(1, 10));
  EXPECT_EQ(outstanding(), (Tokens{0, 20}));
  a_.refusal = Status{Code::unavailable, "waiting for workers"};
  submit(request(2, 10));
  EXPECT_EQ(b_.num_live(), 2u);
}

TEST_F(FrontEndTest, OnlyWhenAllAreFullIsARequestRefused) {
  a_.refusal = b_.refusal = Status{Code::resource_exhausted, "7 requests are waiting"};
  a_.reported.waiting = 7, b_.reported.waiting = 8;
  const auto refused = front_end_.submit(request(1, 10), [](EngineEvent&&) {});
  ASSERT_TRUE(refused.has_error());
  EXPECT_EQ(refused.error().code, Code::resource_exhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("15 requests are waiting"));
  EXPECT_EQ(front_end_.outstanding_tokens(), 0);
  b_.refusal = Status{Code::invalid_argument, "the prompt is empty"};
  EXPECT_EQ(front_end_.submit(request(1, 10), {}).error().code, Code::invalid_argument);
}

TEST_F(FrontEndTest, CountersAreSums) {
  a_.reported.running = 2, b_.reported.running = 3;
  a_.reported.bytes_sent = 10, b_.reported.bytes_sent = 20;
  a_.reported.part_ns[0] = 1, b_.reported.part_ns[0] = 2;
  a_.reported.steps_by_micro_batches[1] = 4, b_.reported.steps_by_micro_batches[1] = 5;
  a_.reported.serving.record_step(5, 1, 1000), b_.reported.serving.record_step(7, 2, 1000);
  b_.reported.serving.finished[0] = 3;
  const EngineCounters sum = front_end_.counters();
  EXPECT_EQ(sum.serving.step_tokens.total(), 2);
  EXPECT_EQ(sum.serving.step_tokens.sum(), 12);
  EXPECT_EQ(sum.serving.finished[0], 3);
  EXPECT_EQ(sum.running, 5);
  EXPECT_EQ(sum.bytes_sent, 30);
  EXPECT_EQ(sum.part_ns[0], 3);
  EXPECT_EQ(sum.steps_by_micro_batches[1], 9);
  EXPECT_EQ(front_end_.replicas()[1].counters.running, 3);
  EXPECT_EQ(front_end_.replicas()[1].name, "r0/1");
}

TEST_F(FrontEndTest, ManyThreadsSubmitAtOnce) {
  constexpr int kThreads = 4, kEach = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([this, t] {
      for (int i = 0; i < kEach; ++i)
        EXPECT_TRUE(front_end_.submit(request(t * kEach + i, 40), [](EngineEvent&&) {}).has_value());
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(a_.num_live() + b_.num_live(), static_cast<size_t>(kThreads * kEach));
  EXPECT_EQ(front_end_.outstanding_tokens(), kThreads * kEach * 50);
}

}  // namespace
}  // namespace guildhall
