#include "router/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>

#include "base/check.h"
#include "base/log.h"
#include "base/trace.h"
#include "router/expert_report.h"
#include "router/kv_counters.h"
#include "router/micro_batch_split.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kIdleWait{200};  // how often an idle engine looks at its deadlines

Status unavailable(std::string message) { return {Code::unavailable, std::move(message)}; }

}  // namespace

Engine::Engine(EngineOptions options, const ModelSpec& spec, const DenseWeights& weights, Exchange& exchange,
               std::unique_ptr<KvCache> cache, Ops& ops, std::unique_ptr<TensorRanks> ranks)
    : options_(std::move(options)),
      spec_(spec),
      exchange_(exchange),
      cache_(std::move(cache)),
      ops_(ops),
      routing_(options_.recorder ? std::optional<StepRouting>(std::in_place, *options_.recorder)
                                 : std::nullopt),
      dispatcher_(dispatcher_options(), exchange),
      ranks_(std::move(ranks)),
      scheduler_(options_.scheduler, rank_caches(), make_spill()),
      forward_(ranks_ ? ranks_->shard(0).spec : spec, weights, *cache_, &dispatcher_, ops, clock_,
               options_.scheduler.max_batched_tokens, options_.max_model_len,
               ranks_ ? ranks_->first() : ForwardRank{}),
      sampler_(ops),
      policy_(micro_batches()) {
  if (ranks_) ranks_->start(options_.scheduler.max_batched_tokens, options_.max_model_len);
}

Engine::~Engine() = default;

std::vector<RankCache> Engine::rank_caches() const {
  std::vector<RankCache> cache_r = {{cache_.get(), &ops_}};
  if (ranks_) ranks_->add_caches(cache_r);
  return cache_r;
}

std::unique_ptr<PageSpill> Engine::make_spill() const {
  if (!options_.spill) return nullptr;
  SpillOptions options = *options_.spill;
  options.name = options_.name;
  auto spill = PageSpill::create(options, rank_caches(), [this] { exchange_.wake(); });
  if (spill.has_error()) {
    log_warn("spill_off", "replica={} folder={} reason=\"{}\"", options_.name, options.folder.string(),
             spill.error().message);
    return nullptr;
  }
  log_info("spill_on", "replica={} folder={} pages={} bytes={} buffers={}", options_.name,
           options.folder.string(), (*spill)->num_slots(), options.size_bytes, (*spill)->num_buffers());
  return *std::move(spill);
}

DispatcherOptions Engine::dispatcher_options() {
  DispatcherOptions options = options_.dispatcher;
  options.team = &ops_.team();
  options.routing = routing_ ? &*routing_ : nullptr;
  options.while_waiting = [this] { run_link_changes(); };
  return options;
}

MicroBatches Engine::micro_batches() const {
  const bool here = options_.dispatcher.pump_local_workers != nullptr;
  return here && options_.micro_batches == MicroBatches::automatic ? MicroBatches::one
                                                                   : options_.micro_batches;
}

// ---- any thread ----

Result<RequestId> Engine::submit(EngineRequest request, EventSink sink) {
  GH_TRY(check(request));
  if (draining_ || stopping_) return unavailable("the router is shutting down");
  if (!serving() && now_ns() >= accepts_until_ns_)
    return unavailable("the router is waiting for its expert workers");
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_.fetch_add(1, std::memory_order_relaxed);
  sequence->request = std::move(request);
  sequence->sink = std::move(sink);
  sequence->tokens = sequence->request.prompt_ids;
  if (const EngineRequest& r = sequence->request; r.logit_rules.any())
    sequence->edits.emplace(r.logit_rules, r.prompt_ids, r.max_tokens, spec_.vocab_size);
  sequence->times.submitted_ns = now_ns();
  const RequestId id = sequence->id;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return unavailable("the router is shutting down");
    if (num_submitted_ + num_waiting_ >= options_.max_waiting)
      return Status{
          Code::resource_exhausted,
          fmt::format("{} requests are waiting (router.batching.max_waiting)", options_.max_waiting)};
    ++num_submitted_;
    commands_.push_back([this, s = std::make_shared<std::unique_ptr<Sequence>>(std::move(sequence))] {
      scheduler_.add(std::move(*s));
    });
  }
  exchange_.wake();
  return id;
}

Result<void> Engine::check(const EngineRequest& request) const {
  const auto prompt_len = static_cast<int64_t>(request.prompt_ids.size());
  if (prompt_len == 0) return Status{Code::invalid_argument, "the prompt is empty"};
  if (request.max_tokens < 0) return Status{Code::invalid_argument, "max_tokens is negative"};
  if (prompt_len + std::min<int64_t>(request.max_tokens, 1) > options_.max_model_len)
    return Status{
        Code::invalid_argument,
        fmt::format("the prompt has {} tokens; the largest prompt that leaves room for one more is {}",
                    prompt_len, options_.max_model_len - 1)};
  for (const int32_t id : request.prompt_ids)
    if (id < 0 || id >= spec_.vocab_size)
      return Status{Code::invalid_argument,
                    fmt::format("token id {} is outside [0, {})", id, spec_.vocab_size)};
  return check_logit_rules(request.logit_rules, spec_.vocab_size);
}

void Engine::cancel(RequestId id) {
  post([this, id] { finish(id, FinishReason::cancelled, std::nullopt); });
}

void Engine::complete(RequestId id) {
  post([this, id] { finish(id, FinishReason::stop, std::nullopt); });
}

EngineCounters Engine::counters() const {
  std::lock_guard lock(counters_mutex_);
  return counters_;
}

std::string Engine::audit() {
  std::promise<std::string> found;
  post([&] { found.set_value(scheduler_.audit()); });
  return found.get_future().get();
}

void Engine::drain() {
  draining_ = true;
  exchange_.wake();
}

void Engine::stop() {
  stopping_ = true;
  exchange_.wake();
}

void Engine::post(std::function<void()> command) {
  {
    std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  exchange_.wake();
}

// ---- the engine thread ----

void Engine::run() {
  name_trace_thread("engine");
  while (!stopping_) {
    const bool had_commands = run_commands();
    collect_lost_workers();
    update_serving();
    if (draining_ && scheduler_.idle()) break;
    if (serving() && !scheduler_.idle())
      step();
    else if (!had_commands)
      wait_for_work();
    scheduler_.poll();
    publish_counters();
  }
  serving_ = false;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;  // what was accepted until here is among the commands
  }
  run_commands();
  fail_all(unavailable("the router is shutting down"));
}

bool Engine::run_commands() {
  std::vector<std::function<void()>> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(commands_);
    num_waiting_ += num_submitted_;
    num_submitted_ = 0;
  }
  for (auto& command : commands) command();
  return run_link_changes() || !commands.empty();
}

void Engine::wait_for_work() {
  exchange_.wait(kIdleWait);
  dispatcher_.poll();
}

void Engine::step() {
  const int64_t begin = now_ns();
  const auto& chunks = scheduler_.schedule(batch_);
  if (chunks.empty()) return wait_for_work();  // all wait for the spill file
  for (const ScheduledChunk& chunk : chunks) stats_.record_start(chunk.sequence->times, begin);
  clock_.begin_step();
  if (routing_) routing_->begin(chunks);
  TraceSpan span("step", {.step = clock_.step(), .tokens = batch_.num_tokens()});
  const Result<View2<const float>> hidden_rh = run_forward();
  if (hidden_rh.has_error()) return give_up_step(hidden_rh.error());
  paused_since_.reset();
  list_rows(chunks);
  if (const auto evaluated = evaluate(*hidden_rh); evaluated.has_error())
    return give_up_step(evaluated.error());
  if (routing_) routing_->commit();
  scheduler_.record_step(batch_.num_tokens(), now_ns() - begin);
  const std::vector<ScheduledChunk> done = chunks;  // advance() changes the scheduler
  for (const ScheduledChunk& chunk : done) advance(chunk);
  const int64_t step_ns = now_ns() - begin;
  stats_.record_step(batch_.num_tokens(), batch_.num_sequences, step_ns);
  std::lock_guard lock(counters_mutex_);
  counters_.step_ns += step_ns;
  ++counters_.steps;
}

Result<View2<const float>> Engine::run_forward() {
  const int num_micro_batches = policy_.choose(batch_.num_tokens());
  const int64_t split = num_micro_batches == 2 ? split_by_work(spec_, batch_.position_t) : 0;
  TraceSpan span(num_micro_batches == 2 ? "forward x2" : "forward",
                 {.step = clock_.step(), .tokens = batch_.num_tokens()});
  const int64_t begin = now_ns();
  GH_ASSIGN(const View2<const float> hidden_rh,
            ranks_ ? ranks_->run(forward_, batch_, split) : forward_.run(batch_, split));
  policy_.record({.num_tokens = batch_.num_tokens(),
                  .num_micro_batches = num_micro_batches,
                  .step_ns = now_ns() - begin});
  std::lock_guard lock(counters_mutex_);
  ++counters_.steps_by_micro_batches[static_cast<size_t>(num_micro_batches - 1)];
  return hidden_rh;
}

void Engine::fail_all(const Status& why) {
  for (auto& sequence : scheduler_.remove_all())
    end(*sequence, EngineEvent{.finish = FinishReason::error, .error = why});
}

// The last event of a sequence that the scheduler has let go.
void Engine::end(Sequence& s, EngineEvent&& event) {
  stats_.record_finish(s.times, *event.finish, s.prompt_len(), s.num_generated(), now_ns());
  s.sink(std::move(event));
}

// What each logits row of the step is for, in the order of batch_.logit_rows.
void Engine::list_rows(const std::vector<ScheduledChunk>& chunks) {
  rows_.clear();
  for (const ScheduledChunk& chunk : chunks) {
    const Sequence& s = *chunk.sequence;
    const bool samples = s.num_pending() == chunk.num_tokens && s.request.max_tokens > 0;
    for (int64_t i = 0; i < chunk.num_logits; ++i) {
      const auto row = static_cast<size_t>(chunk.first_logit + i);
      const bool sampled = samples && i + 1 == chunk.num_logits;
      rows_.push_back({&s, batch_.position_t[static_cast<size_t>(batch_.logit_rows[row])], sampled});
    }
  }
}

Result<void> Engine::evaluate(View2<const float> hidden_rh) {
  results_.resize(rows_.size());
  for (int64_t begin = 0; begin < hidden_rh.rows; begin += Forward::kLogitTile) {
    const int64_t n = std::min(Forward::kLogitTile, hidden_rh.rows - begin);
    const View2<const float> tile_rh = hidden_rh.sub_rows(begin, n);
    GH_ASSIGN(const View2<float> logits_rv,
              ranks_ ? ranks_->logits(forward_, tile_rh) : Result<View2<float>>(forward_.logits(tile_rh)));
    StepClock::Scope scope(clock_, StepPart::sample, {.tokens = n});
    const auto first = static_cast<size_t>(begin), count = static_cast<size_t>(n);
    sampler_.run(logits_rv, std::span(rows_).subspan(first, count),
                 std::span(results_).subspan(first, count));
  }
  return {};
}

// Moves a sequence past its chunk and reports what came of it.
void Engine::advance(const ScheduledChunk& chunk) {
  Sequence& s = *chunk.sequence;
  const bool whole = s.num_pending() == chunk.num_tokens;
  const int64_t begin = s.num_computed;
  scheduler_.advance(chunk);
  EngineEvent event{.num_cached_tokens = s.num_found_tokens};
  std::optional<FinishReason> reason;
  if (whole && s.request.max_tokens == 0) reason = FinishReason::length;
  for (int64_t i = 0; i < chunk.num_logits; ++i) {
    const auto row = static_cast<size_t>(chunk.first_logit + i);
    RowResult& result = results_[row];
    if (!rows_[row].sampled) {
      event.prompt_logprobs.push_back(std::move(result.logprobs));
      ++s.num_prompt_scored;
      continue;
    }
    s.tokens.push_back(result.token);
    if (s.edits) s.edits->add(result.token);
    event.tokens.push_back(result.token);
    if (s.request.num_logprobs) event.logprobs.push_back(std::move(result.logprobs));
    reason = finished(s, result.token);
  }
  {
    std::lock_guard lock(counters_mutex_);
    counters_.generated_tokens += static_cast<int64_t>(event.tokens.size());
    counters_.prompt_tokens += std::min(s.num_computed, s.prompt_len()) - std::min(begin, s.prompt_len());
  }
  report_experts(chunk, forward_.routed_experts(), event);
  event.finish = reason;
  if (!event.tokens.empty())
    stats_.record_tokens(s.times, static_cast<int64_t>(event.tokens.size()), now_ns());
  if (!reason && event.tokens.empty() && event.prompt_logprobs.empty() && event.prompt_routed_experts.empty())
    return;
  if (!reason) return s.sink(std::move(event));
  const auto done = scheduler_.remove(s.id);
  end(*done, std::move(event));
}

std::optional<FinishReason> Engine::finished(const Sequence& s, int32_t token) const {
  const auto& stops = s.request.stop_token_ids;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return FinishReason::stop;
  const bool full = static_cast<int64_t>(s.tokens.size()) >= options_.max_model_len;
  if (s.num_generated() >= s.request.max_tokens || full) return FinishReason::length;
  return std::nullopt;
}

void Engine::finish(RequestId id, FinishReason reason, std::optional<Status> error) {
  if (auto sequence = scheduler_.remove(id))
    end(*sequence, EngineEvent{.finish = reason, .error = std::move(error)});
}

void Engine::publish_counters() {
  num_waiting_ = scheduler_.num_waiting();
  std::lock_guard lock(counters_mutex_);
  count_sequences(scheduler_, counters_);
  count_pages(*cache_, scheduler_, counters_);
  const DispatchCounters& exchanged = dispatcher_.counters();
  counters_.experts_touched = exchanged.experts_touched;
  counters_.dispatches = exchanged.dispatches;
  counters_.pairs = exchanged.pairs;
  counters_.bytes_sent = exchanged.bytes_sent;
  counters_.bytes_received = exchanged.bytes_received;
  counters_.stale_frames = exchanged.stale_frames;
  for (size_t part = 0; part < kNumStepParts; ++part)
    counters_.part_ns[part] = clock_.ns(static_cast<StepPart>(part));
  counters_.kernel_ns = clock_.kernel_ns();
  counters_.exchange_ns = clock_.exchange_ns();
  counters_.serving = stats_;
}

}  // namespace guildhall
