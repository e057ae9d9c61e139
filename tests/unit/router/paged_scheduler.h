// paged_scheduler.h: a scheduler over real pages: its steps write to each slot what the model would,
// something of the token, its position and all tokens before it, and check that what a step reads is that.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <numeric>

#include "kernels/cpu_ops.h"
#include "router/scheduler.h"
#include "tests/unit/router/specs.h"

namespace guildhall {

class PagedSchedulerTest : public ::testing::Test {
 public:
  using Taken = std::pair<RequestId, int64_t>;

 protected:
  static constexpr int64_t kPageBytes = 256 * 4;
  struct CacheShape {
    int64_t num_pages = 0, num_swap_pages = 0;
    bool prefix_caching = true;
  };
  void make_scheduler(
      const CacheShape& shape, SchedulerOptions options,
      const std::function<std::unique_ptr<PageSpill>(const std::vector<RankCache>&)>& make_spill = {}) {
    scheduler_.reset();
    cache_ = *KvCache::create(tiny_gqa_spec(), {.block_size = 4,
                                                .memory_bytes = kPageBytes * shape.num_pages,
                                                .dtype = DType::f32,
                                                .max_model_len = 16,
                                                .max_tokens = 1 << 20,
                                                .prefix_caching = shape.prefix_caching,
                                                .swap_bytes = kPageBytes * shape.num_swap_pages});
    const std::vector<RankCache> cache_r = {{cache_.get(), ops_.get()}};
    scheduler_ = std::make_unique<Scheduler>(options, cache_r, make_spill ? make_spill(cache_r) : nullptr);
  }
  Sequence& add(RequestId id, std::vector<int32_t> prompt, bool scored = false, int32_t priority = 0) {
    auto s = std::make_unique<Sequence>();
    s->id = id;
    s->request.priority = priority;
    s->request.prompt_ids = s->tokens = std::move(prompt);
    if (scored) s->request.num_prompt_logprobs = 0;
    Sequence& added = *(by_id_[id] = s.get());
    scheduler_->add(std::move(s));
    return added;
  }
  // One step as the engine would run it, each sampled token being 7.
  std::vector<Taken> step() {
    std::vector<Taken> taken;
    scheduler_->poll();
    for (const ScheduledChunk& c : std::vector(scheduler_->schedule(batch_))) {
      Sequence& s = *c.sequence;
      taken.emplace_back(s.id, c.num_tokens);
      const int64_t end = s.num_computed + c.num_tokens;
      for (int64_t p = s.num_computed; p < end; ++p) write(s, p);
      for (int64_t p = 0; p < end; ++p) check(s, p);
      const bool whole = c.num_tokens == s.num_pending();
      scheduler_->advance(c);
      s.num_prompt_scored += c.num_logits - (whole ? 1 : 0);
      if (whole) s.tokens.push_back(7);
    }
    for (const auto& [id, num_tokens] : taken)
      if (by_id_[id]->tokens.size() >= 16) scheduler_->remove(id);  // the model's length
    return taken;
  }

  std::unique_ptr<Ops> ops_ = make_cpu_ops({.num_threads = 1});
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  StepBatch batch_;

 private:
  std::map<RequestId, Sequence*> by_id_;

  static uint8_t content(const Sequence& s, int64_t position, size_t array) {
    uint32_t hash = static_cast<uint32_t>(array);
    for (int64_t p = 0; p <= position; ++p)
      hash = hash * 31 + static_cast<uint32_t>(s.tokens[static_cast<size_t>(p)]) + 1;
    return static_cast<uint8_t>(hash % 251);
  }
  std::span<std::byte> slot(const Sequence& s, int64_t position, const PageArray& array) {
    const int64_t bytes = array.page_bytes / 4;
    const int32_t page = s.pages[static_cast<size_t>(position / 4)];
    return {array.data + page * array.page_bytes + position % 4 * bytes, static_cast<size_t>(bytes)};
  }
  void write(const Sequence& s, int64_t position) {
    for (size_t a = 0; a < cache_->arrays().size(); ++a) {
      const std::span<std::byte> bytes = slot(s, position, cache_->arrays()[a]);
      std::memset(bytes.data(), content(s, position, a), bytes.size());
    }
  }
  void check(const Sequence& s, int64_t position) {
    for (size_t a = 0; a < cache_->arrays().size(); ++a)
      for (const std::byte b : slot(s, position, cache_->arrays()[a]))
        ASSERT_EQ(static_cast<int>(b), content(s, position, a)) << "sequence " << s.id << " at " << position;
  }
};

inline std::vector<int32_t> numbers(int32_t n, int32_t first = 0) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), first);
  return v;
}

}  // namespace guildhall
