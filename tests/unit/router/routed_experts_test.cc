// routed_experts_test.cc: the experts that a request is told of are those that its tokens went through:
// transformers' own, and the same however the tokens were batched, cut, preempted or computed again.
#include "router/routed_experts.h"

#include <algorithm>

#include "tests/unit/router/engine_fixture.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(RoutedExpertsOfAStep, AreOfTheWantedRowsOfEachLayerWithExperts) {
  ModelSpec spec;
  spec.is_moe_layer = {false, true, false, true};
  spec.moe.top_k = 2;
  RoutedExperts routed(spec);
  routed.begin({});
  EXPECT_FALSE(routed.wanted());
  const std::vector<int32_t> rows{0, 3, 3, 4};
  routed.begin(rows);
  // Two micro-batches, of rows 0 to 2 and 3 to 5: row r of layer l has 100 l + 10 r and one more.
  for (const int32_t layer : {1, 3})
    for (const int64_t first : {0, 3}) {
      std::vector<int32_t> expert_tk;
      for (auto r = static_cast<int32_t>(first); r < first + 3; ++r)
        for (const int32_t k : {0, 1}) expert_tk.push_back(100 * layer + 10 * r + k);
      routed.record(layer, first, {expert_tk.data(), 3, 2});
    }
  EXPECT_THAT(routed.ids(0, 2), ElementsAre(100, 101, 300, 301, 130, 131, 330, 331));
  EXPECT_THAT(routed.ids(2, 2), ElementsAre(130, 131, 330, 331, 140, 141, 340, 341));
}

EngineRequest asking(std::span<const int32_t> ids, int32_t max_tokens) {
  EngineRequest r;
  r.prompt_ids.assign(ids.begin(), ids.end());
  r.sampling.temperature = 0;
  r.max_tokens = max_tokens;
  r.routed_experts = r.prompt_routed_experts = true;
  return r;
}

// In gate order they come; transformers' are ascending.
std::vector<uint16_t> ascending_per_layer(std::span<const uint16_t> ids, int64_t top_k) {
  std::vector<uint16_t> sorted(ids.begin(), ids.end());
  for (auto at = sorted.begin(); at != sorted.end(); at += top_k) std::sort(at, at + top_k);
  return sorted;
}

class GoldenRouting : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenRouting, IsThatOfTransformers) {
  const GoldenCase golden = read_golden_case(GetParam());
  LocalEngine engine(golden.path, {});
  const RoutingShape shape = engine.engine().routing();
  const auto per_token = static_cast<size_t>(shape.ids_per_token());
  int num_routed = 0;
  for (const GoldenPrompt& prompt : golden.prompts) {
    if (prompt.experts.empty()) continue;
    ++num_routed;
    const Completion got = engine.run(asking(prompt.ids, static_cast<int32_t>(prompt.greedy_ids.size())));
    const size_t num_prompt = prompt.ids.size() * per_token;
    ASSERT_EQ(got.prompt_routed_experts.size(), num_prompt);
    ASSERT_EQ(got.routed_experts.size(), got.tokens.size() * per_token);
    const auto want = std::span(prompt.experts);
    EXPECT_TRUE(std::ranges::equal(ascending_per_layer(got.prompt_routed_experts, shape.top_k),
                                   want.first(num_prompt)));
    // Greedy tokens may part ways where the oracle was undecided; from there on they are other texts.
    const auto same =
        static_cast<size_t>(std::ranges::mismatch(got.tokens, prompt.greedy_ids).in1 - got.tokens.begin());
    const size_t num_same = std::min(same + 1, got.tokens.size()) * per_token;
    EXPECT_GT(same, 8u);
    EXPECT_TRUE(
        std::ranges::equal(ascending_per_layer(std::span(got.routed_experts).first(num_same), shape.top_k),
                           want.subspan(num_prompt - per_token, num_same)));
  }
  EXPECT_GT(num_routed, 0);
}

std::vector<std::string> cases_with_routing() {
  std::vector<std::string> names = golden_case_names();
  std::erase_if(names, [](const std::string& name) {
    return std::ranges::all_of(read_golden_case(name).prompts,
                               [](const GoldenPrompt& prompt) { return prompt.experts.empty(); });
  });
  return names;
}
INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenRouting, ::testing::ValuesIn(cases_with_routing()),
                         [](const auto& info) { return info.param; });

class Routing : public EngineTest {
 protected:
  size_t per_token() { return static_cast<size_t>(engine().routing().ids_per_token()); }
  static EngineRequest asking(int64_t prompt_len, int32_t max_tokens) {
    EngineRequest r = request(prompt_len, max_tokens);
    r.routed_experts = r.prompt_routed_experts = true;
    return r;
  }
  static std::vector<uint16_t> all(const Completion& c) {
    std::vector<uint16_t> ids = c.prompt_routed_experts;
    ids.insert(ids.end(), c.routed_experts.begin(), c.routed_experts.end());
    return ids;
  }
  std::vector<uint16_t> alone(const EngineRequest& r, const LocalEngineOptions& options) {
    start(options);
    return all(local_->run(r));
  }
};

TEST_F(Routing, IsToldToThoseWhoAsk) {
  start();
  EngineRequest r = request(9, 4);
  EXPECT_THAT(all(local_->run(r)), IsEmpty());
  r.routed_experts = true;
  const Completion generated = local_->run(r);
  EXPECT_THAT(generated.routed_experts, SizeIs(4 * per_token()));
  EXPECT_THAT(generated.prompt_routed_experts, IsEmpty());
  EXPECT_THAT(local_->run(asking(9, 0)).prompt_routed_experts, SizeIs(9 * per_token()));
}

TEST_F(Routing, IsOfEveryPairThatWasSent) {
  start();
  const Completion done = local_->run(asking(30, 5));
  wait_for_counters([](const EngineCounters& c) { return c.running == 0; });
  // The pass of the prompt's last token gave the first one: it is told of twice.
  EXPECT_EQ(std::ssize(all(done)) - engine().routing().ids_per_token(), engine().counters().pairs);
}

TEST_F(Routing, IsTheSameHoweverTokensAreBatched) {
  const EngineRequest r = asking(150, 12);
  const std::vector<uint16_t> want = alone(r, {});
  ASSERT_THAT(want, SizeIs(162 * per_token()));
  EXPECT_EQ(alone(r, {.max_batched_tokens = 7}), want);
  EXPECT_EQ(alone(r, {.worker_threads = true, .micro_batches = MicroBatches::two}), want);
  EXPECT_EQ(alone(r, {.max_batched_tokens = 7, .worker_threads = true, .micro_batches = MicroBatches::two}),
            want);

  start({.prefix_caching = false});
  std::vector<std::future<Completion>> others;
  for (int i = 0; i < 5; ++i) others.push_back(local_->submit(asking(40 + i, 30)));
  auto crowded = local_->submit(r);
  for (int i = 0; i < 5; ++i) others.push_back(local_->submit(request(20 + i, 30)));
  EXPECT_EQ(all(crowded.get()), want);
  for (auto& other : others) other.get();
}

TEST_F(Routing, IsTheFirstRanks) {
  // Ranks move logits by rounding: the experts of this prompt are not that close.
  const EngineRequest r = asking(40, 6);
  EXPECT_EQ(alone(r, {.num_threads = 1, .num_ranks = 2}), alone(r, {.num_threads = 1}));
}

TEST_F(Routing, OfTokensFromTheCacheIsNotKnown) {
  start();
  const Completion first = local_->run(asking(100, 3)), second = local_->run(asking(100, 3));
  ASSERT_GE(second.num_cached_tokens, 96);
  const size_t cached = static_cast<size_t>(second.num_cached_tokens) * per_token();
  ASSERT_THAT(second.prompt_routed_experts, SizeIs(100 * per_token()));
  EXPECT_TRUE(std::ranges::all_of(std::span(second.prompt_routed_experts).first(cached),
                                  [](uint16_t id) { return id == kNotRouted; }));
  EXPECT_TRUE(std::ranges::equal(std::span(second.prompt_routed_experts).subspan(cached),
                                 std::span(first.prompt_routed_experts).subspan(cached)));
  EXPECT_EQ(second.routed_experts, first.routed_experts);

  EngineRequest scored = asking(100, 3);  // whose prompt is computed anyway
  scored.num_prompt_logprobs = 0;
  EXPECT_EQ(all(local_->run(scored)), all(first));
}

TEST_F(Routing, IsToldOnceOfWhatIsComputedAgain) {
  const LocalEngineOptions plenty{.prefix_caching = false};
  std::vector<std::vector<uint16_t>> want;
  for (int i = 0; i < 6; ++i) want.push_back(alone(asking(30 + i, 40), plenty));
  for (const int64_t swap_tokens : {0, 300}) {
    start({.max_batched_tokens = 24,
           .block_size = 8,
           .kv_tokens = 200,
           .prefix_caching = false,
           .swap_tokens = swap_tokens,
           .preemption = swap_tokens > 0 ? Preemption::swap : Preemption::measured});
    std::vector<std::future<Completion>> all_of_them;
    for (int i = 0; i < 6; ++i) all_of_them.push_back(local_->submit(asking(30 + i, 40)));
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(all(all_of_them[i].get()), want[i]) << i;
    const EngineCounters c = engine().counters();
    EXPECT_GT(c.preemptions_recompute + c.preemptions_swap, 0);
  }
}

TEST_F(Routing, IsTheSameWhenAWorkerIsLostOnTheWay) {
  const EngineRequest r = asking(60, 40);
  const std::vector<uint16_t> want = alone(r, {});
  start();
  std::vector<uint16_t> prompt, generated;
  std::promise<void> done;
  const auto sink = [&](EngineEvent&& event) {
    prompt.insert(prompt.end(), event.prompt_routed_experts.begin(), event.prompt_routed_experts.end());
    generated.insert(generated.end(), event.routed_experts.begin(), event.routed_experts.end());
    if (generated.size() == 10 * per_token()) local_->kill_worker(1);
    if (event.finish) done.set_value();
  };
  ASSERT_TRUE(engine().submit(r, sink).has_value());
  EXPECT_EQ(local_->wait_for_loss().first, 1);
  local_->attach_worker(1);
  done.get_future().wait();
  prompt.insert(prompt.end(), generated.begin(), generated.end());
  EXPECT_EQ(prompt, want);
}

}  // namespace
}  // namespace guildhall
