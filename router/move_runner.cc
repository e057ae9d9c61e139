#include "router/move_runner.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "base/units.h"

namespace guildhall {
namespace {

constexpr std::chrono::seconds kFirstPause{1}, kLongestPause{60};
// A move is overdue after the time that its bytes take, several times over, and what an engine's longest step
// and other routers' may add.
constexpr std::chrono::seconds kPatience{60};
constexpr int kTimesExpected = 4;
constexpr int64_t kSlowSource = 50'000'000;  // bytes/s that a disk gives at least

double seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

MoveRunner::MoveRunner(BalancedCluster& cluster, std::vector<std::string> worker_names, int64_t expert_bytes)
    : cluster_(cluster),
      names_(std::move(worker_names)),
      expert_bytes_(expert_bytes),
      reports_(std::make_shared<std::vector<Report>>()),
      failures_w_(names_.size()),
      ask_again_w_(names_.size()) {}

void MoveRunner::begin(ExpertMove move, int64_t bytes_per_s, Clock::time_point now) {
  const uint64_t id = next_id_++;
  MoveDone done = [id, weak = std::weak_ptr(reports_)](const MoveOutcome& outcome) {
    if (const auto reports = weak.lock()) reports->push_back({id, outcome});
  };
  details_.push_back({id, now, bytes_per_s});
  under_way_.push_back(move);
  log_debug("move_begins", "{}", describe(move));
  if (move.kind == ExpertMove::Kind::add)
    cluster_.add_experts({move.worker, std::move(move.experts_l), move.from_worker, bytes_per_s},
                         std::move(done));
  else
    cluster_.drop_experts(move.worker, std::move(move.experts_l), std::move(done));
}

std::vector<EndedMove> MoveRunner::collect(Clock::time_point now) {
  std::vector<EndedMove> all;
  for (Report& report : std::exchange(*reports_, {})) {
    const auto found =
        std::find_if(details_.begin(), details_.end(), [&](const Details& d) { return d.id == report.id; });
    const auto at = found - details_.begin();
    EndedMove& ended = all.emplace_back(
        EndedMove{std::move(under_way_[static_cast<size_t>(at)]), std::move(report.outcome)});
    details_.erase(found);
    under_way_.erase(under_way_.begin() + at);
    count(ended, now);
  }
  return all;
}

void MoveRunner::count(const EndedMove& ended, Clock::time_point now) {
  const auto w = static_cast<size_t>(ended.move.worker);
  if (!ended.outcome.result.has_error()) {
    log_debug("move_done", "{} bytes={} time=\"{}\"", describe(ended.move), ended.outcome.bytes,
              format_duration(ended.outcome.duration));
    failures_ = failures_w_[w] = 0;
    if (ended.move.kind == ExpertMove::Kind::drop) {
      totals_.dropped_experts += ended.move.num_experts;
    } else {
      totals_.added_experts += ended.move.num_experts;
      totals_.added_bytes += ended.outcome.bytes;
    }
    return;
  }
  ++totals_.failed_moves;
  log_warn("move_failed", "{} reason=\"{}\"", describe(ended.move), to_string(ended.outcome.result.error()));
  if (ended.worker_lost()) return;  // it is the worker that failed
  ++failures_;
  const int doublings = std::min(failures_w_[w]++, 6);
  ask_again_w_[w] = now + std::min<std::chrono::nanoseconds>(kFirstPause * (1 << doublings), kLongestPause);
}

std::string MoveRunner::describe(const ExpertMove& move) const {
  const bool is_add = move.kind == ExpertMove::Kind::add;
  const std::string source =
      !is_add ? ""
              : fmt::format(" from={}",
                            move.from_worker ? names_[static_cast<size_t>(*move.from_worker)] : "checkpoint");
  return fmt::format("kind={} worker={}{} experts={}", is_add ? "add" : "drop",
                     names_[static_cast<size_t>(move.worker)], source, move.num_experts);
}

// At the rate it is bounded to.
std::chrono::nanoseconds MoveRunner::expected(size_t at) const {
  if (under_way_[at].kind == ExpertMove::Kind::drop) return {};
  const int64_t rate = details_[at].bytes_per_s > 0 ? details_[at].bytes_per_s : kSlowSource;
  return std::chrono::nanoseconds(static_cast<int64_t>(
      static_cast<double>(under_way_[at].num_experts * expert_bytes_) * 1e9 / static_cast<double>(rate)));
}

std::chrono::nanoseconds MoveRunner::allowed(size_t at) const {
  return kPatience + kTimesExpected * expected(at);
}

std::vector<MoveStatus> MoveRunner::status(Clock::time_point now) const {
  std::vector<MoveStatus> all;
  for (size_t i = 0; i < under_way_.size(); ++i) {
    const ExpertMove& move = under_way_[i];
    MoveStatus status{.is_add = move.kind == ExpertMove::Kind::add,
                      .worker = names_[static_cast<size_t>(move.worker)],
                      .num_experts = move.num_experts,
                      .bytes = move.num_experts * expert_bytes_,
                      .elapsed_s = seconds(now - details_[i].begin)};
    if (status.is_add)
      status.source = move.from_worker ? names_[static_cast<size_t>(*move.from_worker)] : "checkpoint";
    status.eta_s = std::max(0.0, seconds(expected(i)) - status.elapsed_s);
    all.push_back(std::move(status));
  }
  return all;
}

std::optional<std::string> MoveRunner::stalled(Clock::time_point now) const {
  for (size_t i = 0; i < under_way_.size(); ++i)
    if (const auto lasts = now - details_[i].begin; lasts > allowed(i))
      return fmt::format("{} lasts {}, expected {}", describe(under_way_[i]), format_duration(lasts),
                         format_duration(expected(i)));
  return std::nullopt;
}

bool MoveRunner::may_ask(int32_t worker, Clock::time_point now) const {
  return now >= ask_again_w_[static_cast<size_t>(worker)];
}

}  // namespace guildhall
