// crowd_test.cc: hundreds of requests of every kind at once, in too little memory: each gives the text that
// it gives alone, and in the end every page is back.
#include <algorithm>
#include <random>

#include "tests/unit/router/engine_fixture.h"
#include "tests/unit/router/spill_folder.h"

namespace guildhall {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kNumRequests = 80;
#else
constexpr size_t kNumRequests = 500;
#endif

struct CrowdRequest {
  EngineRequest request;
  int cancel_after = -1;  // its tokens; 0: at once; -1: never
};

// Prompts that begin alike in many ways, choices of one prompt (n > 1), priorities, salts, stops, scores.
std::vector<CrowdRequest> make_crowd(uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  std::vector<CrowdRequest> crowd;
  while (crowd.size() < kNumRequests) {
    EngineRequest r;
    const int family = below(4), shared = below(60), own = 1 + below(12);
    for (int i = 0; i < shared; ++i) r.prompt_ids.push_back(1 + (i * 7 + family * 31) % 200);
    for (int i = 0; i < own; ++i) r.prompt_ids.push_back(1 + below(3));
    r.max_tokens = below(12) == 0 ? 0 : 1 + below(20);
    if (below(3) > 0) r.sampling = {.temperature = 0.9f, .top_p = 0.95f};
    if (below(3) == 0) r.stop_token_ids = {1 + below(50), 60 + below(50)};
    if (below(8) == 0) r.num_prompt_logprobs = 0;
    r.priority = below(4) == 0 ? below(3) : 1;
    r.cache_salt = below(4) == 0 ? "other" : "";
    r.tenant = below(2) == 0 ? "a" : "b";
    const int n = below(5) == 0 ? 2 + below(3) : 1;
    for (int choice = 0; choice < n && crowd.size() < kNumRequests; ++choice) {
      r.seed = static_cast<uint64_t>(1000 * crowd.size() + static_cast<size_t>(choice));
      crowd.push_back({r, below(6) == 0 ? below(8) : -1});
    }
  }
  return crowd;
}

class Crowd : public EngineTest {
 protected:
  // All at once; what each came to.
  std::vector<Completion> run_all(const std::vector<CrowdRequest>& crowd) {
    struct State {
      std::vector<Completion> done;
      std::vector<RequestId> id;
      std::atomic<int> num_ended{0};
    };
    State state{std::vector<Completion>(crowd.size()), std::vector<RequestId>(crowd.size()), 0};
    for (size_t i = 0; i < crowd.size(); ++i) {
      const int cancel_after = crowd[i].cancel_after;
      const auto own_id = std::make_shared<std::atomic<RequestId>>(0);
      *own_id = engine()
                    .submit(crowd[i].request,
                            [this, &state, i, cancel_after, own_id](EngineEvent&& event) {
                              Completion& c = state.done[i];
                              c.tokens.insert(c.tokens.end(), event.tokens.begin(), event.tokens.end());
                              if (static_cast<int>(c.tokens.size()) == cancel_after && *own_id != 0)
                                engine().cancel(*own_id);
                              if (!event.finish) return;
                              c.finish = *event.finish;
                              ++state.num_ended;
                            })
                    .value();
      if (cancel_after == 0) engine().cancel(*own_id);
      if (i % 50 == 0) {
        EXPECT_EQ(engine().audit(), "") << "after request " << i;
      }
    }
    while (state.num_ended < static_cast<int>(crowd.size())) {
      EXPECT_EQ(engine().audit(), "");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return std::move(state.done);
  }

  void expect_same_texts(const LocalEngineOptions& crowded) {
    const std::vector<CrowdRequest> crowd = make_crowd(static_cast<uint32_t>(crowded.kv_dtype) + 5);
    std::vector<Completion> alone;
    start({.num_workers = 1, .num_threads = 1, .prefix_caching = false, .kv_dtype = crowded.kv_dtype});
    for (const CrowdRequest& c : crowd) alone.push_back(local_->run(c.request));
    start(crowded);
    const std::vector<Completion> together = run_all(crowd);
    for (size_t i = 0; i < crowd.size(); ++i) {
      ASSERT_NE(together[i].finish, FinishReason::error) << i;
      if (together[i].finish != FinishReason::cancelled) {
        EXPECT_EQ(together[i].tokens, alone[i].tokens) << "request " << i;
        EXPECT_EQ(together[i].finish, alone[i].finish) << "request " << i;
        continue;
      }
      ASSERT_LE(together[i].tokens.size(), alone[i].tokens.size());
      EXPECT_TRUE(
          std::ranges::equal(together[i].tokens, std::span(alone[i].tokens).first(together[i].tokens.size())))
          << "cancelled request " << i;
    }
    expect_all_pages_free();
    EXPECT_EQ(engine().audit(), "");
    const EngineCounters c = engine().counters();
    EXPECT_EQ(c.kv_swap_pages_used, 0);
    if (kNumRequests < 500) return;  // too few to be sure of what follows
    EXPECT_GT(c.prefix_hits, 0);
    EXPECT_GT(c.preemptions_recompute + c.preemptions_swap, 0);
    if (crowded.swap_tokens > 0 && crowded.preemption == Preemption::swap) {
      EXPECT_GT(c.kv_swap_bytes_in, 0);
    }
    if (crowded.spill) {
      EXPECT_GT(c.kv_spill_hits, 0);
    }
  }

  static LocalEngineOptions crowded(DType kv_dtype, Preemption preemption) {
    return {.num_workers = 2,
            .num_threads = 1,
            .max_sequences = 12,
            .max_batched_tokens = 48,
            .block_size = 8,
            .kv_tokens = 360,
            .swap_tokens = 160,
            .reserve_share = 0.05,
            .preemption = preemption,
            .kv_dtype = kv_dtype};
  }
};

TEST_F(Crowd, GivesTheTextsOfEachAloneWithSwap) { expect_same_texts(crowded(DType::bf16, Preemption::swap)); }
TEST_F(Crowd, GivesTheTextsOfEachAloneWhateverIsMeasured) {
  expect_same_texts(crowded(DType::bf16, Preemption::measured));
}
TEST_F(Crowd, GivesTheTextsOfEachAloneFromAnFp8Cache) {
  expect_same_texts(crowded(DType::e4m3, Preemption::swap));
}
TEST_F(Crowd, GivesTheTextsOfEachAloneFromAnInt8Cache) {
  expect_same_texts(crowded(DType::int8, Preemption::measured));
}

TEST_F(Crowd, GivesTheTextsOfEachAloneWithSpilledPages) {
  const SpillFolder folder;
  for (const int64_t swap_tokens : {0, 160}) {
    LocalEngineOptions options = crowded(DType::bf16, Preemption::swap);
    options.swap_tokens = swap_tokens;
    options.spill = {
        .folder = folder.path(), .size_bytes = 4 << 20, .buffer_bytes = 1 << 20, .always_reads = true};
    expect_same_texts(options);
    local_.reset();
  }
}

}  // namespace
}  // namespace guildhall
