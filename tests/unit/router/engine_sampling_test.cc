// engine_sampling_test.cc: what requests ask of their tokens holds in what the engine draws, and changes
// neither the log-probabilities it reports nor the answers of others.
#include <random>
#include <set>

#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

using EngineSamplingTest = EngineTest;

TEST_F(EngineSamplingTest, OnlyAllowedTokensAreDrawn) {
  start();
  EngineRequest r = request(9, 30);
  r.sampling.temperature = 1;
  r.logit_rules.allowed_token_ids = {3, 64, 276};
  EXPECT_THAT(local_->run(r).tokens, Each(AnyOf(3, 64, 276)));
  r.logit_rules.allowed_token_ids = {31};
  EXPECT_THAT(local_->run(r).tokens, Each(31));
}

TEST_F(EngineSamplingTest, ABiasForcesATokenOrKeepsItOut) {
  start();
  const int32_t first = local_->run(request(9, 1)).tokens[0];
  EngineRequest r = request(9, 8);
  r.logit_rules.bias = {{first, -100}};
  EXPECT_THAT(local_->run(r).tokens, Not(Contains(first)));
  r.logit_rules.bias = {{200, 100}};
  EXPECT_THAT(local_->run(r).tokens, Each(200));
}

TEST_F(EngineSamplingTest, StopTokensWaitForMinTokens) {
  start();
  EngineRequest r = request(9, 12);
  r.logit_rules.bias = {{50, 100}};  // would be drawn at once
  r.stop_token_ids = {50};
  EXPECT_THAT(local_->run(r).tokens, SizeIs(1));
  r.logit_rules.min_tokens = 5;
  r.logit_rules.held_token_ids = {50};
  const Completion done = local_->run(r);
  EXPECT_THAT(done.tokens, SizeIs(6));
  EXPECT_EQ(done.finish, FinishReason::stop);
  EXPECT_EQ(std::count(done.tokens.begin(), done.tokens.end(), 50), 1);
}

// Whatever the model prefers, a token that is punished beyond any logit comes once only.
TEST_F(EngineSamplingTest, PenaltiesKeepTokensFromComingAgain) {
  start();
  EngineRequest r = request(9, 40);
  r.logit_rules.presence_penalty = 1000;
  const Completion present = local_->run(r);
  EXPECT_THAT(std::set<int32_t>(present.tokens.begin(), present.tokens.end()), SizeIs(40));
  r.logit_rules = {.frequency_penalty = 1000};
  EXPECT_EQ(local_->run(r).tokens, present.tokens);

  // Biases put all logits above 0, where dividing is what punishes.
  r.logit_rules = {.repetition_penalty = 1e6f};
  for (int32_t id = 0; id < 277; ++id) r.logit_rules.bias.push_back({id, 100});
  const std::vector<int32_t> once = local_->run(r).tokens;
  const std::set<int32_t> seen(once.begin(), once.end());
  EXPECT_THAT(seen, SizeIs(40));
  for (const int32_t id : r.prompt_ids) EXPECT_EQ(seen.count(id), 0u);
}

TEST_F(EngineSamplingTest, LogProbabilitiesAreTheModelsOwn) {
  start();
  EngineRequest r = request(9, 1);
  r.num_logprobs = 5;
  const PositionLogprobs plain = local_->run(r).logprobs.at(0);
  EXPECT_EQ(plain.rank, 1);
  const int32_t second = plain.top[1].token;
  r.logit_rules.bias = {{second, 100}};
  const PositionLogprobs biased = local_->run(r).logprobs.at(0);
  EXPECT_EQ(biased.chosen.token, second);
  EXPECT_EQ(biased.chosen.logprob, plain.top[1].logprob);
  EXPECT_EQ(biased.rank, 2);
  for (size_t k = 0; k < 5; ++k) {
    EXPECT_EQ(biased.top[k].token, plain.top[k].token);
    EXPECT_EQ(biased.top[k].logprob, plain.top[k].logprob);
  }
}

TEST_F(EngineSamplingTest, RefusesRulesThatCannotBeFollowed) {
  start();
  EngineRequest r = request(9, 1);
  r.logit_rules.bias = {{277, 1}};
  expect_refused(local_->try_submit(r), Code::invalid_argument,
                 "logit_bias: token id 277 is outside [0, 277)");
}

EngineRequest random_request(std::mt19937& random) {
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  const auto share = [&] { return static_cast<float>(below(1000)) / 1000; };
  EngineRequest r;
  for (int32_t i = below(60) + 1; i > 0; --i) r.prompt_ids.push_back(below(277));
  r.max_tokens = 1 + below(24);
  r.seed = random();
  r.priority = below(3);
  r.sampling = {.temperature = below(4) == 0 ? 0 : 0.3f + share(),
                .top_p = below(2) == 0 ? 1 : 0.5f + share() / 2,
                .top_k = below(2) == 0 ? 0 : 1 + below(50),
                .min_p = below(2) == 0 ? 0 : share() / 5};
  r.stop_token_ids = {below(277), below(277)};
  LogitRules& rules = r.logit_rules;
  if (below(2) == 0) rules.repetition_penalty = 0.7f + share();
  if (below(2) == 0) rules.presence_penalty = 4 * share() - 2;
  if (below(2) == 0) rules.frequency_penalty = 4 * share() - 2;
  if (below(3) == 0) rules.bias = {{below(100), 5}, {100 + below(100), -100}};
  if (below(3) == 0)
    for (int32_t id = below(5); id < 277; id += 1 + below(5)) rules.allowed_token_ids.push_back(id);
  if (below(3) == 0) rules.min_tokens = below(r.max_tokens + 1), rules.held_token_ids = r.stop_token_ids;
  if (below(3) == 0) r.num_logprobs = below(21);
  if (below(5) == 0) r.num_prompt_logprobs = below(6);
  return r;
}

void expect_same(const Completion& a, const Completion& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.finish, b.finish);
  for (const auto list : {&Completion::prompt_logprobs, &Completion::logprobs}) {
    ASSERT_EQ((a.*list).size(), (b.*list).size());
    for (size_t i = 0; i < (a.*list).size(); ++i) {
      const PositionLogprobs &x = (a.*list)[i], &y = (b.*list)[i];
      EXPECT_EQ(x.chosen.token, y.chosen.token);
      EXPECT_EQ(x.chosen.logprob, y.chosen.logprob);
      EXPECT_EQ(x.rank, y.rank);
      ASSERT_EQ(x.top.size(), y.top.size());
      for (size_t k = 0; k < x.top.size(); ++k) EXPECT_EQ(x.top[k].logprob, y.top[k].logprob);
    }
  }
}

// Few pages, so that sequences are preempted as well, and start over with what they had come to.
TEST_F(EngineSamplingTest, AnswersAreTheSameAloneAndInACrowd) {
  std::mt19937 random(23);
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 60; ++i) requests.push_back(random_request(random));
  std::vector<Completion> alone;
  start();
  for (const EngineRequest& r : requests) alone.push_back(local_->run(r));
  start({.max_sequences = 16, .max_batched_tokens = 48, .kv_tokens = 480});
  std::vector<std::future<Completion>> crowd;
  {
    HoldingRequest until_all_are_there(engine(), request(5, 3));
    for (const EngineRequest& r : requests) crowd.push_back(local_->submit(r));
  }
  for (size_t i = 0; i < crowd.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    expect_same(crowd[i].get(), alone[i]);
  }
  expect_all_pages_free();
  EXPECT_GT(engine().counters().preemptions_recompute, 0);
}

}  // namespace
}  // namespace guildhall
