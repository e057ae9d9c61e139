// engine_fixture.h: a tiny checkpoint's engine, a request that stops it where the test wants it, and a crowd
// to which something happens.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {

// A request whose sink holds the engine thread when its second token comes, until it is released: what the
// test does meanwhile happens at the next step boundary, at once. (At the second token its own admission is
// counted.)
class HoldingRequest {
 public:
  HoldingRequest(Engine& engine, EngineRequest request) {
    id = engine
             .submit(std::move(request),
                     [state = state_](EngineEvent&& event) {
                       Completion& c = state->completion;
                       c.tokens.insert(c.tokens.end(), event.tokens.begin(), event.tokens.end());
                       if (c.tokens.size() == 2 && !event.tokens.empty()) {
                         state->reached.set_value();
                         state->released.get_future().wait();
                       }
                       if (!event.finish) return;
                       c.finish = *event.finish;
                       c.error = event.error;
                       state->done.set_value(std::move(c));
                     })
             .value();
    state_->reached.get_future().wait();
  }
  ~HoldingRequest() { release(); }

  void release() {
    if (!std::exchange(released_, true)) state_->released.set_value();
  }
  Completion finish() {
    release();
    return state_->done.get_future().get();
  }

  RequestId id = 0;

 private:
  struct State {
    std::promise<void> reached, released;
    Completion completion;
    std::promise<Completion> done;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
  bool released_ = false;
};

class EngineTest : public ::testing::Test {
 protected:
  void start(const LocalEngineOptions& options = {}) {
    local_ = std::make_unique<LocalEngine>(golden_.path, options);
  }
  Engine& engine() { return local_->engine(); }

  static EngineRequest request(int64_t prompt_len, int32_t max_tokens) {
    EngineRequest r;
    for (int64_t i = 0; i < prompt_len; ++i) r.prompt_ids.push_back(static_cast<int32_t>(1 + (i * 7) % 200));
    r.sampling.temperature = 0;
    r.max_tokens = max_tokens;
    return r;
  }

  // Counters are published once per turn of the engine.
  void wait_for_counters(const std::function<bool(const EngineCounters&)>& reached) {
    while (!reached(engine().counters())) std::this_thread::yield();
  }
  void expect_all_pages_free() {
    wait_for_counters([](const EngineCounters& c) { return c.running == 0 && c.waiting == 0; });
    EXPECT_EQ(engine().counters().kv_pages_used, 0);
  }

  static void expect_refused(const Result<std::future<Completion>>& submitted, Code code,
                             const std::string& what) {
    ASSERT_TRUE(submitted.has_error());
    EXPECT_EQ(submitted.error().code, code);
    EXPECT_THAT(submitted.error().message, ::testing::HasSubstr(what));
  }

  const GoldenCase golden_ = read_golden_case(std::string("qwen3_moe_f32"));
  std::unique_ptr<LocalEngine> local_;
};

class EngineCrowdTest : public EngineTest {
 protected:
  // Runs a crowd, with `fault` struck as the first of them reports its fifth token, and `repair` after the
  // engine has noticed.
  std::vector<std::vector<int32_t>> run_crowd(const std::function<void()>& fault,
                                              const std::function<void()>& repair) {
    std::atomic<bool> struck{fault == nullptr};
    std::vector<std::vector<int32_t>> tokens(6);
    std::atomic<size_t> num_ended{0};
    for (size_t i = 0; i < tokens.size(); ++i) {
      EngineRequest r = request(10 + 20 * static_cast<int64_t>(i), 25);
      r.sampling = {.temperature = 0.8f};
      r.seed = i;
      EXPECT_TRUE(engine().submit(std::move(r), [&, i](EngineEvent&& event) {
        tokens[i].insert(tokens[i].end(), event.tokens.begin(), event.tokens.end());
        if (tokens[i].size() == 5 && !struck.exchange(true)) fault();
        if (!event.finish) return;
        EXPECT_EQ(*event.finish, FinishReason::length);
        ++num_ended;
      }));
    }
    if (repair) repair();
    while (num_ended < tokens.size()) std::this_thread::yield();
    return tokens;
  }
};

}  // namespace guildhall
