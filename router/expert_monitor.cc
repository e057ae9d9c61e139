#include "router/expert_monitor.h"

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"

namespace guildhall {
namespace {

double seconds_since(int64_t begin_ns) {
  return begin_ns == 0 ? 0 : static_cast<double>(now_ns() - begin_ns) * 1e-9;
}

}  // namespace

void ExpertsReport::add(const RouterLoads& other) {
  routers.push_back(other.router);
  loads += other.loads;
  for (size_t i = 0; i < traffic_lw.size(); ++i) traffic_lw[i] += other.traffic_lw[i];
  window_s = std::max(window_s, other.window_s);
}

std::span<const WorkerTraffic> ExpertsReport::traffic_w(int64_t layer) const {
  const size_t num_workers = workers.size();
  return std::span(traffic_lw).subspan(static_cast<size_t>(layer) * num_workers, num_workers);
}

WorkerTraffic ExpertsReport::worker_traffic(size_t worker) const {
  WorkerTraffic sum;
  for (size_t at = worker; at < traffic_lw.size(); at += workers.size()) sum += traffic_lw[at];
  return sum;
}

double ExpertsReport::balancedness(int64_t layer) const {
  double pairs = 0, speed = 0, most = 0;
  for (size_t w = 0; w < workers.size(); ++w) {
    const auto mine = static_cast<double>(traffic_w(layer)[w].pairs);
    pairs += mine, speed += workers[w].speed;
    most = std::max(most, mine / workers[w].speed);
  }
  return most > 0 ? pairs / speed / most : 1;
}

double ExpertsReport::hottest_ratio(int64_t layer) const {
  const auto& load_e = loads.load_le[static_cast<size_t>(layer)];
  int64_t sum = 0, most = 0;
  for (const ExpertLoad& load : load_e) sum += load.tokens(), most = std::max(most, load.tokens());
  return sum > 0 ? static_cast<double>(most) * static_cast<double>(load_e.size()) / static_cast<double>(sum)
                 : 1;
}

std::vector<std::vector<int32_t>> ExpertsReport::workers_of_experts(int64_t layer) const {
  std::vector<std::vector<int32_t>> workers_e(static_cast<size_t>(shape.num_experts));
  for (size_t w = 0; w < workers.size(); ++w) {
    const auto& experts_l = workers[w].view.experts_l;
    if (static_cast<size_t>(layer) >= experts_l.size()) continue;
    for (const int32_t expert : experts_l[static_cast<size_t>(layer)])
      workers_e[static_cast<size_t>(expert)].push_back(static_cast<int32_t>(w));
  }
  return workers_e;
}

std::optional<double> ExpertsReport::attributed_ns(const ExpertLoad& load,
                                                   std::span<const int32_t> holders) const {
  StepCosts sum;
  double num = 0;
  for (const int32_t worker : holders) {
    const auto& costs = workers[static_cast<size_t>(worker)].costs;
    if (!costs) continue;
    sum.pair_ns += costs->pair_ns, sum.activation_ns += costs->activation_ns;
    ++num;
  }
  if (num == 0) return std::nullopt;
  const double activations =
      active_share(static_cast<double>(load.active_steps), static_cast<double>(load.tokens()),
                   static_cast<int32_t>(holders.size())) *
      static_cast<double>(holders.size());
  return (static_cast<double>(load.tokens()) * sum.pair_ns + activations * sum.activation_ns) / num;
}

ExpertMonitor::ExpertMonitor(ExpertMonitorOptions options)
    : options_(std::move(options)),
      recorder_(options_.routing),
      fit_w_(options_.speed_w.size(), CostFit(options_.expected)) {
  GH_CHECK(static_cast<int64_t>(options_.speed_w.size()) == recorder_.num_workers());
}

void ExpertMonitor::sample() {
  const std::vector<WorkerView> views = options_.workers();
  std::lock_guard lock(mutex_);
  for (size_t w = 0; w < views.size(); ++w)
    if (views[w].own) fit_w_[w].add(views[w].own->sums);
}

std::vector<std::optional<StepCosts>> ExpertMonitor::worker_costs() const {
  std::vector<std::optional<StepCosts>> costs_w;
  std::lock_guard lock(mutex_);
  for (const CostFit& fit : fit_w_) costs_w.push_back(fit.costs());
  return costs_w;
}

std::optional<StepCosts> ExpertMonitor::costs() const {
  const std::vector<std::optional<StepCosts>> costs_w = worker_costs();
  StepCosts sum;
  double num = 0;
  for (size_t w = 0; w < costs_w.size(); ++w) {
    if (!costs_w[w]) continue;
    sum.pair_ns += costs_w[w]->pair_ns * options_.speed_w[w];
    sum.activation_ns += costs_w[w]->activation_ns * options_.speed_w[w];
    ++num;
  }
  if (num == 0) return std::nullopt;
  return StepCosts{.pair_ns = sum.pair_ns / num, .activation_ns = sum.activation_ns / num};
}

ExpertsReport ExpertMonitor::report() const {
  RoutingWindow window = recorder_.window();
  ExpertsReport report{.shape = recorder_.shape(),
                       .routers = {options_.router},
                       .window_steps = recorder_.window_steps(),
                       .window_s = seconds_since(window.begin_ns),
                       .loads = std::move(window.loads),
                       .traffic_lw = std::move(window.traffic_lw),
                       .totals = recorder_.totals(),
                       .trace = recorder_.trace().status()};
  std::vector<WorkerView> views = options_.workers();
  std::vector<std::optional<StepCosts>> costs_w = worker_costs();
  GH_CHECK(views.size() == options_.speed_w.size());
  for (size_t w = 0; w < views.size(); ++w)
    report.workers.push_back({std::move(views[w]), options_.speed_w[w], costs_w[w]});
  return report;
}

RouterLoads ExpertMonitor::loads() const {
  RoutingWindow window = recorder_.window();
  return {.router = options_.router,
          .total_steps = recorder_.totals().num_steps,
          .loads = std::move(window.loads),
          .traffic_lw = std::move(window.traffic_lw),
          .window_s = seconds_since(window.begin_ns)};
}

}  // namespace guildhall
