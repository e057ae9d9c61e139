#include "router/tensor_ranks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/spin.h"

namespace guildhall {
namespace {

// Returns when `word` is no longer `value`.
void wait_while(std::atomic<uint32_t>& word, uint32_t value, int64_t spin_ns) {
  const auto changed = [&] { return word.load() != value; };
  if (spin(spin_ns, changed)) return;
  while (!changed()) word.wait(value);
}

}  // namespace

TensorRanks::TensorRanks(std::vector<ModelShard> shard_r, std::vector<Rank> others,
                         std::unique_ptr<CollectiveGroup> group, int64_t spin_ns)
    : shard_r_(std::move(shard_r)), group_(std::move(group)), spin_ns_(spin_ns) {
  for (Rank& rank : others) {
    others_.push_back(std::make_unique<Member>());
    others_.back()->rank = std::move(rank);
  }
}

TensorRanks::~TensorRanks() {
  program_ = nullptr;
  job_.fetch_add(1);
  job_.notify_all();
  for (const auto& member : others_)
    if (member->thread.joinable()) member->thread.join();
}

void TensorRanks::start(int64_t max_tokens, int64_t max_position) {
  for (size_t i = 0; i < others_.size(); ++i) {
    Member& m = *others_[i];
    const int rank = static_cast<int>(i) + 1;
    m.forward = std::make_unique<Forward>(shard(rank).spec, *m.rank.weights, *m.rank.cache, nullptr,
                                          *m.rank.ops, m.clock, max_tokens, max_position,
                                          ForwardRank{&shard_r_[i + 1], &group_->rank(rank)});
    m.thread = std::thread([this, &m, rank] { follow(m, rank); });
  }
}

void TensorRanks::add_caches(std::vector<RankCache>& cache_r) const {
  for (const auto& member : others_) cache_r.push_back({member->rank.cache.get(), member->rank.ops.get()});
}

// ---- the other ranks' threads

void TensorRanks::follow(Member& member, int rank) {
  name_trace_thread(fmt::format("rank {}", rank));
  member.rank.on_thread();
  for (uint32_t job = 0;; ++job) {
    wait_while(job_, job, spin_ns_);
    if (program_ == nullptr) return;
    const Result<void> done = (*program_)(*member.forward, member.results);
    if (done.has_error()) group_->fail(done.error());
    if (num_running_.fetch_sub(1) == 1) num_running_.notify_one();
  }
}

// ---- the engine thread

Result<void> TensorRanks::on_all(Forward& first, const Program& program) {
  program_ = &program;
  num_running_.store(static_cast<uint32_t>(others_.size()));
  job_.fetch_add(1);
  job_.notify_all();
  const Result<void> mine = program(first, results_);
  if (mine.has_error()) group_->fail(mine.error());
  for (uint32_t running; (running = num_running_.load()) != 0;) wait_while(num_running_, running, spin_ns_);
  Result<void> all = group_->rank(0).state();
  if (all.has_error()) group_->reset();
  return all;
}

Result<View2<const float>> TensorRanks::run(Forward& first, const StepBatch& batch, int64_t split) {
  GH_TRY(on_all(first, [&](Forward& forward, Results& results) -> Result<void> {
    GH_ASSIGN(results.hidden_rh, forward.run(batch, split));
    return {};
  }));
  return results_.hidden_rh;
}

Result<View2<float>> TensorRanks::logits(Forward& first, View2<const float> hidden_rh) {
  const int64_t begin = (hidden_rh.data - results_.hidden_rh.data) / results_.hidden_rh.stride;
  GH_TRY(on_all(first, [&](Forward& forward, Results& results) -> Result<void> {
    results.logits_rv = forward.logits(results.hidden_rh.sub_rows(begin, hidden_rh.rows));
    return {};
  }));
  return results_.logits_rv;
}

Result<std::vector<std::unique_ptr<KvCache>>> make_rank_caches(const std::vector<ModelShard>& shard_r,
                                                               const KvCacheOptions& options,
                                                               const std::vector<Ops*>& ops_r) {
  const auto page_bytes = [&](const ModelShard& shard) { return KvCache::page_bytes(shard.spec, options); };
  const int64_t largest = page_bytes(*std::ranges::max_element(shard_r, {}, page_bytes));
  std::vector<std::unique_ptr<KvCache>> caches;
  for (size_t r = 0; r < shard_r.size(); ++r) {
    KvCacheOptions mine = options;
    const auto num_ranks = static_cast<int64_t>(shard_r.size());
    mine.swap_bytes = options.swap_bytes / num_ranks / largest * page_bytes(shard_r[r]);
    if (page_bytes(shard_r[r]) < largest)
      mine.memory_bytes = options.memory_bytes / largest * page_bytes(shard_r[r]);
    GH_ASSIGN(caches.emplace_back(), KvCache::create(shard_r[r].spec, mine, ops_r[r]->memory()));
  }
  return caches;
}

}  // namespace guildhall
