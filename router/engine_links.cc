// engine_links.cc: how an engine keeps its workers: links that come and go, what is held at their other ends,
// and what becomes of a step when one is lost.
#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "router/engine.h"

namespace guildhall {

// ---- any thread ----

void Engine::attach_worker(int32_t worker, std::string name, std::string exchange_address,
                           uint64_t generation, Holdings holdings, std::function<void()> taken) {
  post_link_change([=, this] {
    const Result<PeerId> peer = exchange_.connect(name, exchange_address);
    if (peer.has_error()) {
      options_.on_worker_lost({worker, generation, peer.error()});
      return;
    }
    const std::string transport = exchange_.describe(*peer);
    log_info("worker_attached", "replica={} worker={} experts={} transport=\"{}\"", options_.name, name,
             count_experts(holdings.experts_l), transport);
    options_.on_worker_attached(worker, transport);
    dispatcher_.attach(worker, name, *peer, generation, holdings);
    await_taken(worker, generation, taken);
  });
}

void Engine::set_holdings(int32_t worker, uint64_t generation, Holdings holdings,
                          std::function<void()> taken) {
  post_link_change([=, this] {
    if (!dispatcher_.is_attached(worker, generation)) return;
    dispatcher_.set_holdings(worker, holdings);
    await_taken(worker, generation, taken);
  });
}

void Engine::detach_worker(int32_t worker) {
  post_link_change([this, worker] { dispatcher_.detach(worker); });
}

void Engine::post_link_change(std::function<void()> change) {
  {
    std::lock_guard lock(mutex_);
    link_changes_.push_back(std::move(change));
    has_link_changes_.store(true, std::memory_order_release);
  }
  exchange_.wake();
}

std::string Engine::why_not_serving() const {
  std::lock_guard lock(counters_mutex_);
  return why_not_serving_;
}

// ---- the engine thread ----

bool Engine::run_link_changes() {
  if (!has_link_changes_.load(std::memory_order_acquire)) return false;
  std::vector<std::function<void()>> changes;
  {
    std::lock_guard lock(mutex_);
    changes.swap(link_changes_);
    has_link_changes_.store(false, std::memory_order_release);
  }
  for (auto& change : changes) change();
  return !changes.empty();
}

void Engine::await_taken(int32_t worker, uint64_t generation, std::function<void()> taken) {
  std::erase_if(unsettled_, [&](const Announced& a) { return a.worker == worker; });
  if (taken) unsettled_.push_back({worker, generation, std::move(taken)});
}

// Between two steps: all that was asked for by an older announcement has been answered, or does not count.
void Engine::settle_holdings() {
  std::erase_if(unsettled_, [&](const Announced& a) {
    if (!dispatcher_.is_attached(a.worker, a.generation)) return true;
    if (!dispatcher_.placement().is_settled(a.worker)) return false;
    a.taken();
    return true;
  });
}

void Engine::update_serving() {
  settle_holdings();
  LivePlacement& placement = dispatcher_.placement();
  was_complete_ |= placement.all_attached();
  const bool serves = was_complete_ && placement.is_covered();
  if (serves != serving()) {
    if (!serves) accepts_until_ns_ = now_ns() + options_.recovery_timeout.count();
    const std::string why = placement.uncovered();
    {
      std::lock_guard lock(counters_mutex_);
      why_not_serving_ = why;
    }
    serving_.store(serves, std::memory_order_release);
    if (serves)
      log_info("serving", "replica={}", options_.name);
    else
      log_warn("not_serving", "replica={} reason=\"{}\"", options_.name, why);
  }
  if (scheduler_.idle())
    paused_since_.reset();
  else if (!serves)
    await_workers();
}

// Workers that come back only to be lost again do not count as back: a step must succeed.
void Engine::await_workers() {
  const auto now = Clock::now();
  if (!paused_since_) paused_since_ = now;
  if (now - *paused_since_ > options_.recovery_timeout)
    fail_all({Code::peer_lost, fmt::format("an expert worker was lost and not back within {}",
                                           format_duration(options_.recovery_timeout))});
}

// The step is void. Its sequences stand where they stood before it: it is planned anew, for whoever holds the
// experts then; while nobody does, they are put back and recomputed.
void Engine::give_up_step(const Status& why) {
  log_warn("step_failed", "replica={} reason=\"{}\" running={}", options_.name, to_string(why),
           scheduler_.num_running());
  const bool lost = collect_lost_workers() || why.code == Code::peer_lost;
  if (!lost) return fail_all(why);  // trying again would fail again
  if (!dispatcher_.placement().is_covered()) scheduler_.preempt_all();
  await_workers();
}

bool Engine::collect_lost_workers() {
  const std::vector<LostWorker> all = dispatcher_.take_lost();
  for (const LostWorker& lost : all) options_.on_worker_lost(lost);
  return !all.empty();
}

}  // namespace guildhall
