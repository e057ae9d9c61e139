#include "router/front_end.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace guildhall {
namespace {

constexpr int64_t kPausedHandicap = int64_t{1} << 40;  // more tokens than are ever outstanding

// Keys a table remembers: 16 tokens each cover two million tokens, in about 12 MB.
constexpr size_t kMaxKeys = 1 << 17;

static_assert(sizeof(EngineCounters) - sizeof(ServingStats) == sizeof(int64_t) * (38 + kNumStepParts + 2),
              "a counter that was added is to be summed below");

void add(EngineCounters& sum, const EngineCounters& c) {
  for (const auto field : {&EngineCounters::running,
                           &EngineCounters::waiting,
                           &EngineCounters::kv_pages_total,
                           &EngineCounters::kv_pages_used,
                           &EngineCounters::kv_pages_findable,
                           &EngineCounters::kv_slots_filled,
                           &EngineCounters::kv_slots_empty,
                           &EngineCounters::kv_swap_pages_total,
                           &EngineCounters::kv_swap_pages_used,
                           &EngineCounters::kv_swap_bytes_out,
                           &EngineCounters::kv_swap_bytes_in,
                           &EngineCounters::kv_spill_slots_total,
                           &EngineCounters::kv_spill_slots_used,
                           &EngineCounters::kv_spill_bytes_written,
                           &EngineCounters::kv_spill_bytes_read,
                           &EngineCounters::kv_spill_pages_written,
                           &EngineCounters::kv_spill_pages_read,
                           &EngineCounters::kv_spill_pages_dropped,
                           &EngineCounters::kv_spill_pages_damaged,
                           &EngineCounters::kv_spill_hits,
                           &EngineCounters::prefix_queries,
                           &EngineCounters::prefix_hits,
                           &EngineCounters::prefix_tokens_looked_up,
                           &EngineCounters::prefix_tokens_found,
                           &EngineCounters::prompt_tokens,
                           &EngineCounters::generated_tokens,
                           &EngineCounters::steps,
                           &EngineCounters::preemptions_recompute,
                           &EngineCounters::preemptions_swap,
                           &EngineCounters::experts_touched,
                           &EngineCounters::step_ns,
                           &EngineCounters::kernel_ns,
                           &EngineCounters::exchange_ns,
                           &EngineCounters::dispatches,
                           &EngineCounters::pairs,
                           &EngineCounters::bytes_sent,
                           &EngineCounters::bytes_received,
                           &EngineCounters::stale_frames})
    sum.*field += c.*field;
  for (size_t i = 0; i < c.part_ns.size(); ++i) sum.part_ns[i] += c.part_ns[i];
  for (size_t i = 0; i < c.steps_by_micro_batches.size(); ++i)
    sum.steps_by_micro_batches[i] += c.steps_by_micro_batches[i];
  sum.serving.add(c.serving);
}

}  // namespace

// What one request adds to its replica's outstanding tokens, until it ends. Used by one thread at a time.
class FrontEnd::Claim {
 public:
  Claim(std::shared_ptr<std::atomic<int64_t>> sum, const EngineRequest& request)
      : sum_(std::move(sum)),
        prompt_(static_cast<int64_t>(request.prompt_ids.size())),
        answer_(std::max<int64_t>(1, std::min<int64_t>(request.max_tokens, kExpectedTokens))) {
    *sum_ += prompt_ + answer_;
  }
  ~Claim() { end(); }
  Claim(const Claim&) = delete;

  void record(const EngineEvent& event) {
    if (event.finish) return end();
    const auto generated = static_cast<int64_t>(event.tokens.size());
    if (generated == 0 || answer_ == 0) return;
    const int64_t rest = std::max<int64_t>(1, answer_ - generated);
    *sum_ -= prompt_ + answer_ - rest;
    prompt_ = 0, answer_ = rest;
  }

 private:
  void end() {
    *sum_ -= prompt_ + answer_;
    prompt_ = answer_ = 0;
  }
  const std::shared_ptr<std::atomic<int64_t>> sum_;
  int64_t prompt_, answer_;
};

FrontEnd::Replica::Replica(EngineClient* engine, std::string name)
    : engine(engine), name(std::move(name)), prefixes(kMaxKeys) {}

FrontEnd::FrontEnd(FrontEndOptions options, std::span<EngineClient* const> replicas)
    : options_(std::move(options)) {
  GH_CHECK(!replicas.empty() && options_.names.size() == replicas.size());
  for (size_t i = 0; i < replicas.size(); ++i)
    replicas_.push_back(std::make_unique<Replica>(replicas[i], options_.names[i]));
}

// A replica's ids are its own: ours carry the replica as well, so that nothing must be remembered.
Result<RequestId> FrontEnd::submit(EngineRequest request, EventSink sink) {
  const std::vector<PrefixKey> keys = prefix_keys(request);
  Status last;
  const std::vector<size_t> order = rank(request, keys);
  for (const size_t i : order) {
    Replica& replica = *replicas_[i];
    auto claim = std::make_shared<Claim>(replica.outstanding_tokens, request);
    auto counted = [claim, sink](EngineEvent&& event) {
      claim->record(event);
      sink(std::move(event));
    };
    const bool is_last = i == order.back();
    Result<RequestId> id = is_last ? replica.engine->submit(std::move(request), std::move(counted))
                                   : replica.engine->submit(request, std::move(counted));
    if (id) {
      std::lock_guard lock(mutex_);
      replica.prefixes.add(keys);
      return *id * replicas_.size() + i;
    }
    last = id.error();
    if (last.code != Code::resource_exhausted && last.code != Code::unavailable) return last;
  }
  return refusal(last);
}

void FrontEnd::cancel(RequestId id) {
  replicas_[id % replicas_.size()]->engine->cancel(id / replicas_.size());
}

void FrontEnd::complete(RequestId id) {
  replicas_[id % replicas_.size()]->engine->complete(id / replicas_.size());
}

// Of the beginning that can count.
std::vector<PrefixKey> FrontEnd::prefix_keys(const EngineRequest& request) const {
  std::vector<PrefixKey> keys;
  if (replicas_.size() == 1 && !options_.has_peers) return keys;
  const auto affine = static_cast<size_t>(options_.prefix_affinity);
  const std::span<const int32_t> prompt_t = request.prompt_ids;
  extend_prefix_keys(prompt_t.first(std::min(prompt_t.size(), affine)), options_.block_size,
                     request.cache_salt, keys);
  return keys;
}

std::vector<SpreadCandidate> FrontEnd::candidates(std::span<const PrefixKey> keys) {
  std::vector<SpreadCandidate> all(replicas_.size());
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < replicas_.size(); ++i)
    all[i] = {
        .outstanding_tokens = replicas_[i]->outstanding_tokens->load(),
        .found_tokens = static_cast<int64_t>(replicas_[i]->prefixes.num_found(keys)) * options_.block_size,
        .handicap = replicas_[i]->engine->paused() ? kPausedHandicap : 0};
  return all;
}

SpreadCandidate FrontEnd::preview(const EngineRequest& request) {
  const std::vector<SpreadCandidate> all = candidates(prefix_keys(request));
  return all[rank_candidates(all, options_.prefix_affinity).front()];
}

std::vector<size_t> FrontEnd::rank(const EngineRequest& request, std::span<const PrefixKey> keys) {
  std::vector<size_t> order = rank_candidates(candidates(keys), options_.prefix_affinity);
  if (request.beside) {
    const size_t wanted = *request.beside % replicas_.size();
    std::ranges::stable_partition(order, [&](size_t i) { return i == wanted; });
  }
  return order;
}

Status FrontEnd::refusal(const Status& last) const {
  if (last.code != Code::resource_exhausted || replicas_.size() == 1) return last;
  return {last.code, fmt::format("{} requests are waiting, as many as may (router.batching.max_waiting)",
                                 counters().waiting)};
}

EngineCounters FrontEnd::counters() const {
  EngineCounters sum;
  for (const auto& replica : replicas_) add(sum, replica->engine->counters());
  return sum;
}

int64_t FrontEnd::outstanding_tokens() const {
  int64_t sum = 0;
  for (const auto& replica : replicas_) sum += replica->outstanding_tokens->load();
  return sum;
}

std::vector<ReplicaStatus> FrontEnd::replicas() const {
  std::vector<ReplicaStatus> all;
  for (const auto& replica : replicas_)
    all.push_back({.name = replica->name,
                   .outstanding_tokens = replica->outstanding_tokens->load(),
                   .counters = replica->engine->counters()});
  return all;
}

}  // namespace guildhall
