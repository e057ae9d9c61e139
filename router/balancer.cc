#include "router/balancer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/log.h"
#include "base/units.h"

namespace guildhall {
namespace {

constexpr int kMissedIntervals = 3;  // without a decision, until an alarm
constexpr int32_t kManyFailures = 3;
constexpr int kIntervalsToMeasure = 2;  // after a change, beyond which nobody waits for what it brought

std::vector<std::string> names_of(const std::vector<WorkerInfo>& workers) {
  std::vector<std::string> names;
  for (const WorkerInfo& worker : workers) names.push_back(worker.name);
  return names;
}

}  // namespace

Balancer::Balancer(BalancedCluster& cluster, BalancedModel model, BalancerOptions options,
                   Clock::time_point now)
    : cluster_(cluster),
      model_(std::move(model)),
      options_(std::move(options)),
      costs_(model_.assumed_costs),
      runner_(cluster, names_of(model_.workers), model_.expert_bytes),
      was_ready_w_(model_.workers.size()),
      held_(model_.experts, static_cast<int64_t>(model_.workers.size())),
      next_decision_(now + options_.interval),
      last_decision_(now) {
  publish(now);
}

void Balancer::tick(Clock::time_point now) {
  look(now);
  take_ended(now);
  measure_gain();
  if (!repair(now)) {
    if (execution_)
      go_on(now);
    else if (now >= next_decision_ && runner_.under_way().empty() &&
             (now >= measured_by_ || !meter_.is_waiting()))
      decide(now);
  }
  watch(now);
  publish(now);
}

void Balancer::set_options(BalancerOptions options, Clock::time_point now) {
  if (execution_) abandon(DecisionOutcome::abandoned, "the settings changed", now);
  meter_.forget();
  options_ = std::move(options);
  next_decision_ = now + options_.interval;
  last_decision_ = now;
  was_active_ = false;
  publish(now);
}

BalanceStatus Balancer::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

void Balancer::look(Clock::time_point now) {
  std::vector<BalancedWorker> workers = cluster_.workers();
  const auto same = [](const BalancedWorker& a, const BalancedWorker& b) {
    return a.ready == b.ready && a.experts_l == b.experts_l;
  };
  const auto same_ready = [](const BalancedWorker& a, const BalancedWorker& b) { return a.ready == b.ready; };
  const bool is_news = !std::ranges::equal(workers, workers_, same);
  const bool others_ready = !std::ranges::equal(workers, workers_, same_ready);
  workers_ = std::move(workers);
  if (others_ready && execution_) abandon(DecisionOutcome::abandoned, "a worker came or went", now);
  if (others_ready) meter_.forget();
  if (!is_news) return;
  held_ = HeldExperts(model_.experts, static_cast<int64_t>(workers_.size()));
  for (size_t w = 0; w < workers_.size(); ++w) {
    if (!workers_[w].ready) continue;
    was_ready_w_[w] = true;
    held_.put_all(static_cast<int32_t>(w), workers_[w].experts_l);
  }
  missing_ = held_.missing();
}

void Balancer::take_ended(Clock::time_point now) {
  for (const EndedMove& ended : runner_.collect(now)) {
    const bool failed = ended.outcome.result.has_error();
    if (repairing_ && !failed && ended.move.kind == ExpertMove::Kind::add)
      repaired_experts_ += ended.move.num_experts;
    if (!failed || !execution_) continue;
    abandon(DecisionOutcome::failed, to_string(ended.outcome.result.error()), now);
    const int doublings = std::min(runner_.failures_in_a_row(), 4);
    next_decision_ = now + options_.interval * (1 << doublings);
  }
}

void Balancer::abandon(DecisionOutcome outcome, const std::string& why, Clock::time_point now) {
  if (DecisionRecord* record = record_of(execution_->decision)) {
    record->outcome = outcome;
    record->reasons.push_back("given up: " + why);
    record->moving_s = std::chrono::duration<double>(now - execution_->begin).count();
  }
  ++decisions_[static_cast<size_t>(outcome)];
  log_warn("rebalancing_given_up", "number={} reason=\"{}\": experts stay where they are now",
           execution_->decision, why);
  execution_.reset();
  last_decision_ = now;
}

bool Balancer::settled() const {
  for (size_t w = 0; w < workers_.size(); ++w)
    if (!workers_[w].ready && (workers_[w].loading || !was_ready_w_[w])) return false;
  return true;
}

std::string Balancer::workers_that(bool (*is_so)(const BalancedWorker&)) const {
  std::string names;
  for (size_t w = 0; w < workers_.size(); ++w)
    if (is_so(workers_[w])) names += (names.empty() ? "" : ", ") + model_.workers[w].name;
  return names;
}

// With a target: no more than what a worker holds before or after and one batch, where memory is no limit.
MoveLimits Balancer::limits(const HeldExperts* target) const {
  MoveLimits limits;
  for (size_t w = 0; w < model_.workers.size(); ++w) {
    int64_t most = std::numeric_limits<int64_t>::max();
    if (target)
      most = std::max(held_.total(static_cast<int32_t>(w)), target->total(static_cast<int32_t>(w))) +
             limits.batch;
    if (const int64_t memory = model_.workers[w].memory_bytes; memory > 0 && model_.expert_bytes > 0)
      most = std::min(most, memory / model_.expert_bytes);
    limits.most_experts_w.push_back(most);
  }
  return limits;
}

Result<BalanceWorkers> Balancer::slots() const {
  std::vector<WorkerInfo> workers = model_.workers;
  for (size_t w = 0; w < workers.size(); ++w) workers[w].is_there = workers_[w].ready;
  const auto& is_moe = model_.experts.is_moe_layer;
  return plan_serving_slots(workers, {.num_layers = std::count(is_moe.begin(), is_moe.end(), true),
                                      .num_experts = model_.experts.num_experts,
                                      .redundant_experts = options_.redundant_experts,
                                      .expert_bytes = model_.expert_bytes});
}

// True while experts are missing: nothing else is begun then.
bool Balancer::repair(Clock::time_point now) {
  num_without_room_ = 0;
  if (missing_.empty()) {
    if (std::exchange(repairing_, false))
      log_info("experts_repaired", "every expert is held again; repaired={}", repaired_experts_);
    return false;
  }
  if (!settled() || workers_that([](const BalancedWorker& w) { return w.ready; }).empty()) {
    waits_for_ = "workers are not ready: " + workers_that([](const BalancedWorker& w) { return !w.ready; });
    return true;
  }
  waits_for_ = fmt::format("{} experts are held by nobody", missing_.size());
  if (!options_.repair) return true;
  if (!std::exchange(repairing_, true)) {
    const std::string away = workers_that([](const BalancedWorker& w) { return !w.ready; });
    log_warn("repairing_experts", "experts={} away=\"{}\": they are loaded where there is room",
             missing_.size(), away);
  }
  std::vector<bool> can_add_w;
  std::vector<double> speed_w;
  for (size_t w = 0; w < workers_.size(); ++w) {
    can_add_w.push_back(workers_[w].ready && runner_.may_ask(static_cast<int32_t>(w), now));
    speed_w.push_back(model_.workers[w].speed);
  }
  RepairPlan plan = plan_repair(held_, can_add_w, speed_w, runner_.under_way(), limits(nullptr));
  num_without_room_ = plan.num_without_room;
  for (ExpertMove& move : plan.moves) runner_.begin(std::move(move), /*bytes_per_s=*/0, now);
  return true;
}

void Balancer::go_on(Clock::time_point now) {
  last_decision_ = now;  // moving is not standing still
  for (ExpertMove& move :
       next_moves(held_, execution_->target, runner_.under_way(), limits(&execution_->target)))
    runner_.begin(std::move(move), static_cast<int64_t>(options_.gate.move_bytes_per_s), now);
  if (!runner_.under_way().empty()) return;
  if (held_ == execution_->target) return finish(now);
  abandon(DecisionOutcome::failed,
          "the workers' memory (experts.workers.memory) leaves no room to exchange experts", now);
}

void Balancer::finish(Clock::time_point now) {
  const Execution done = *std::move(execution_);
  execution_.reset();
  ++decisions_[static_cast<size_t>(DecisionOutcome::moved)];
  if (DecisionRecord* record = record_of(done.decision)) {
    record->outcome = DecisionOutcome::moved;
    record->moving_s = std::chrono::duration<double>(now - done.begin).count();
    log_info("experts_moved", "number={} experts={} bytes=\"{}\" time=\"{}\"", done.decision,
             record->num_moves, format_bytes(record->moved_bytes), format_duration(now - done.begin));
  }
  served_ = cluster_.served();
  measured_by_ = now + kIntervalsToMeasure * options_.interval;
  meter_.begin({.decision = done.decision,
                .before = done.before,
                .after = done.after,
                .workers = done.workers,
                .costs = costs_,
                .served = served_,
                .window_steps = options_.window_steps});
}

void Balancer::measure_gain() {
  const std::optional<ActualGain> gain = meter_.look(cluster_);
  if (!gain) return;
  DecisionRecord* record = record_of(gain->decision);
  if (!record) return;
  record->actual = gain->figures;
  record->wait_after_ns = gain->wait_ns;
  const auto wait = [](const std::optional<double>& ns) {
    return ns ? format_duration(std::chrono::nanoseconds(static_cast<int64_t>(*ns))) : std::string("unknown");
  };
  log_info("rebalanced",
           "number={} predicted={:.1f}% actual={:.1f}% balancedness=\"{:.3f} -> {:.3f}\" experts={} "
           "bytes=\"{}\" wait_per_step=\"{} -> {}\"",
           record->number, 100 * record->predicted.gain(), 100 * gain->figures.gain(),
           gain->figures.balancedness_before, gain->figures.balancedness_after, record->num_moves,
           format_bytes(record->moved_bytes), wait(record->wait_before_ns), wait(record->wait_after_ns));
}

void Balancer::watch(Clock::time_point now) {
  const bool configured = options_.policy != Policy::keep;
  const bool starting = std::ranges::find(was_ready_w_, false) != was_ready_w_.end();
  if (starting || !configured) last_decision_ = now;
  const auto since = now - last_decision_;
  const auto when = [](bool condition, auto message) {
    return condition ? std::optional<std::string>(message()) : std::nullopt;
  };
  alarms_.set(BalanceAlarm::no_decision,
              when(configured && since > kMissedIntervals * options_.interval,
                   [&] {
                     return fmt::format(
                         "none for {}: {}", format_duration(since),
                         waits_for_.empty() ? "moves that were begun have not ended" : waits_for_);
                   }),
              now);
  alarms_.set(BalanceAlarm::no_loads,
              when(configured && loads_stand_still_,
                   [] { return "steps are served, and none is counted in the window"; }),
              now);
  alarms_.set(BalanceAlarm::move_stalled, runner_.stalled(now), now);
  alarms_.set(BalanceAlarm::moves_fail,
              when(runner_.failures_in_a_row() >= kManyFailures,
                   [&] { return fmt::format("{} in a row; the log says why", runner_.failures_in_a_row()); }),
              now);
  const auto lacking = options_.repair ? num_without_room_ : static_cast<int64_t>(missing_.size());
  alarms_.set(BalanceAlarm::experts_missing,
              when(lacking > 0 && settled(),
                   [&] {
                     return fmt::format("{} of them; {}", missing_.size(),
                                        options_.repair ? "no worker has room (experts.workers.memory)"
                                                        : "balance.repair is false");
                   }),
              now);
}

void Balancer::publish(Clock::time_point now) {
  BalanceStatus status{.mode = options_.observe ? "observe" : "active",
                       .policy = std::string(to_string(options_.policy)),
                       .window_steps = options_.window_steps,
                       .moves = runner_.status(now),
                       .history = {history_.begin(), history_.end()},
                       .alarms = alarms_.raised(),
                       .num_missing = static_cast<int64_t>(missing_.size()),
                       .decisions = decisions_,
                       .repaired_experts = repaired_experts_,
                       .now = now};
  status.interval_s = std::chrono::duration<double>(options_.interval).count();
  status.next_decision_s = std::max(0.0, std::chrono::duration<double>(next_decision_ - now).count());
  const MoveTotals& totals = runner_.totals();
  status.added_experts = totals.added_experts, status.added_bytes = totals.added_bytes;
  status.dropped_experts = totals.dropped_experts, status.failed_moves = totals.failed_moves;
  std::lock_guard lock(mutex_);
  status_ = std::move(status);
}

DecisionRecord* Balancer::record_of(uint64_t decision) {
  const auto found = std::find_if(history_.begin(), history_.end(),
                                  [&](const DecisionRecord& record) { return record.number == decision; });
  return found == history_.end() ? nullptr : &*found;
}

// What nothing came of is not kept one by one.
void Balancer::add_record(DecisionRecord record) {
  const auto is_idle = [](const DecisionRecord& one) { return one.outcome == DecisionOutcome::idle; };
  if (is_idle(record) && !history_.empty() && is_idle(history_.front())) history_.pop_front();
  history_.push_front(std::move(record));
  if (history_.size() > kMaxDecisions) history_.pop_back();
}

}  // namespace guildhall
