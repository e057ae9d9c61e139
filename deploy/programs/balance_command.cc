#include "deploy/programs/balance_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>

#include "base/units.h"
#include "deploy/programs/balance_settings.h"
#include "deploy/programs/heat_map.h"
#include "proto/config.pb.h"
#include "proto/config_yaml.h"
#include "router/balance/replay.h"

namespace guildhall {
namespace {

std::string time_of(double ns) { return format_duration(std::chrono::nanoseconds(std::llround(ns))); }

// Static first, to compare with; then the ones asked for, once each.
Result<std::vector<Policy>> policies_of(const BalanceArguments& arguments, const config::Config& config) {
  std::vector<std::string> names = arguments.policies;
  if (names.empty()) names.push_back(config.balance().policy());
  std::vector<Policy> policies{Policy::keep};
  for (const std::string& name : names) {
    GH_ASSIGN(const Policy policy, parse_policy(name));
    if (std::find(policies.begin(), policies.end(), policy) == policies.end()) policies.push_back(policy);
  }
  return policies;
}

ReplayOptions replay_options(const BalanceArguments& arguments, const config::Balance& balance,
                             const TraceHeader& header) {
  ReplayOptions options;
  options.policy_options.num_groups = header.num_groups;
  options.gate = gate_options(balance, header.expert_bytes);
  if (arguments.move_gb_per_s) options.gate.move_bytes_per_s = *arguments.move_gb_per_s * 1e9;
  if (arguments.move_slowdown) options.gate.slowdown = *arguments.move_slowdown;
  options.costs = {.pair_ns = 2 * static_cast<double>(header.expert_params) / arguments.gflop_per_s,
                   .activation_ns = static_cast<double>(header.expert_bytes) / arguments.read_gb_per_s};
  options.window_steps = balance.window_steps();
  options.interval_us = static_cast<uint64_t>(balance.interval_us());
  return options;
}

struct Replayed {
  Policy policy;
  std::unique_ptr<Replay> replay;
  ReplayReport report;
};

class BalanceCommand {
 public:
  BalanceCommand(const BalanceArguments& arguments, const config::Config& config, TraceHeader header,
                 BalanceWorkers workers)
      : arguments_(arguments),
        config_(config),
        header_(std::move(header)),
        workers_(std::move(workers)),
        whole_(header_, std::numeric_limits<int64_t>::max()) {}

  Result<void> run(TraceReader& reader, const std::vector<Policy>& policies) {
    ReplayOptions options = replay_options(arguments_, config_.balance(), header_);
    for (const Policy policy : policies) {
      options.policy = policy;
      replayed_.push_back({policy, std::make_unique<Replay>(header_, workers_, options), {}});
    }
    const ReplicaPlacement before = replayed_.front().replay->placement();
    TraceStep step;
    uint64_t first_us = 0, first_id = 0;
    for (;;) {
      GH_ASSIGN(const bool more, reader.next(step));
      if (!more) break;
      if (whole_.num_steps() == 0) first_us = step.time_us, first_id = step.step_id;
      whole_.add(step);
      for (Replayed& one : replayed_) one.replay->add(step);
    }
    if (whole_.num_steps() == 0)
      return Status{Code::invalid_argument,
                    fmt::format("{}: the trace has no steps", arguments_.trace.string())};
    for (Replayed& one : replayed_) one.report = one.replay->finish();
    print_setting(step.time_us - first_us, step.step_id - first_id);
    print_table();
    print_memory();
    if (arguments_.show_layers) print_layers();
    print_reasons();
    return write_html(before);
  }

 private:
  void print_setting(uint64_t lasted_us, uint64_t id_range) const {
    fmt::print("trace: {}, {} of {} layers have {} experts top-{}, {} each; {} steps in {}\n", header_.model,
               header_.moe_layers.size(), header_.num_layers, header_.num_experts, header_.top_k,
               format_bytes(header_.expert_bytes), whole_.num_steps(),
               format_duration(std::chrono::microseconds(lasted_us)));
    if (const uint64_t missing = id_range + 1 - static_cast<uint64_t>(whole_.num_steps()); missing > 0)
      fmt::print("{} steps between them were not recorded\n", missing);
    fmt::print("workers: {} on {} hosts; slots per layer: {} = {}\n", workers_.size(), workers_.num_nodes(),
               workers_.slots(), fmt::join(workers_.slots_w, " + "));
    const int64_t wanted = header_.num_experts + config_.balance().redundant_experts();
    if (workers_.slots() < wanted)
      fmt::print("balance.redundant_experts: {} asked for, {} fit\n", config_.balance().redundant_experts(),
                 workers_.slots() - header_.num_experts);
    if (replayed_.front().report.num_decisions == 0)
      fmt::print(
          "balance.interval: the trace is shorter than {}, so nothing is decided; write a shorter one\n",
          format_duration(std::chrono::microseconds(config_.balance().interval_us())));
    fmt::print("step times: the experts' part, a worker reading {:g} GB/s and computing {:g} GFLOP/s\n\n",
               arguments_.read_gb_per_s, arguments_.gflop_per_s);
  }

  void print_table() const {
    fmt::print("{:<12} {:>17} {:>6} {:>9} {:>8} {:>7} {:>10} {:>11} {:>6}\n", "policy", "balancedness: min",
               "mean", "decisions", "changes", "moves", "moved", "step", "gain");
    const double step_before = replayed_.front().report.step_ns;
    for (const Replayed& one : replayed_) {
      const ReplayReport& report = one.report;
      const auto [least, mean] = min_and_mean(report);
      fmt::print("{:<12} {:>17.3f} {:>6.3f} {:>9} {:>8} {:>7} {:>10} {:>11} {:>5.1f}%\n",
                 to_string(one.policy), least, mean, report.num_decisions, report.num_changes,
                 report.num_moves, format_bytes(report.moved_bytes), time_of(report.step_ns),
                 step_before > 0 ? 100 * (1 - report.step_ns / step_before) : 0);
    }
  }

  static std::pair<double, double> min_and_mean(const ReplayReport& report) {
    Prediction prediction;
    prediction.balancedness_l = report.balancedness_l;
    return {prediction.min_balancedness(), prediction.mean_balancedness()};
  }

  void print_memory() const {
    fmt::print("\n{:<24}", "memory of experts");
    for (const Replayed& one : replayed_) fmt::print(" {:>12}", to_string(one.policy));
    fmt::print("\n");
    for (size_t w = 0; w < workers_.size(); ++w) {
      fmt::print("{:<24}", config_.experts().workers(static_cast<int>(w)).name());
      for (const Replayed& one : replayed_)
        fmt::print(" {:>12}",
                   format_bytes(experts_per_worker(one.replay->placement())[w] * header_.expert_bytes));
      fmt::print("\n");
    }
  }

  void print_layers() const {
    fmt::print("\n{:<24}", "balancedness");
    for (const Replayed& one : replayed_) fmt::print(" {:>12}", to_string(one.policy));
    fmt::print("\n");
    for (size_t i = 0; i < header_.moe_layers.size(); ++i) {
      fmt::print("layer {:<18}", header_.moe_layers[i]);
      for (const Replayed& one : replayed_) fmt::print(" {:>12.3f}", one.report.balancedness_l[i]);
      fmt::print("\n");
    }
  }

  void print_reasons() const {
    for (const Replayed& one : replayed_) {
      if (one.policy == Policy::keep || one.report.reasons.empty()) continue;
      fmt::print("\n{}, the last decision:\n", to_string(one.policy));
      for (const std::string& reason : one.report.reasons) fmt::print("  {}\n", reason);
    }
  }

  Result<void> write_html(const ReplicaPlacement& before) const {
    if (arguments_.html.empty()) return {};
    HeatMapInput input{.title = header_.model, .loads = whole_.loads(), .workers = workers_};
    for (const config::Worker& worker : config_.experts().workers())
      input.worker_names.push_back(worker.name());
    input.placements.push_back({"before: static", before});
    for (const Replayed& one : replayed_)
      if (one.policy != Policy::keep)
        input.placements.push_back(
            {fmt::format("after: {}, at the trace's end", to_string(one.policy)), one.replay->placement()});
    std::ofstream file(arguments_.html, std::ios::binary);
    file << heat_map_html(input);
    file.close();
    if (!file)
      return Status{
          Code::invalid_argument,
          fmt::format("--html {}: cannot be written; does its folder exist?", arguments_.html.string())};
    fmt::print("\nheat map: {}\n", arguments_.html.string());
    return {};
  }

  const BalanceArguments& arguments_;
  const config::Config& config_;
  const TraceHeader header_;
  const BalanceWorkers workers_;
  LoadWindow whole_;
  std::vector<Replayed> replayed_;  // static first
};

}  // namespace

Result<void> run_balance(const BalanceArguments& arguments) {
  GH_ASSIGN(const config::Config config, read_config(arguments.config));
  GH_ASSIGN(const std::vector<Policy> policies, policies_of(arguments, config));
  std::ifstream file(arguments.trace, std::ios::binary);
  if (!file)
    return Status{Code::not_found, fmt::format("--trace {}: cannot be opened", arguments.trace.string())};
  GH_ASSIGN(TraceReader reader, TraceReader::open(file, arguments.trace.string()));
  const TraceHeader header = reader.header();
  GH_ASSIGN(BalanceWorkers workers,
            plan_slots(worker_infos(config), {.num_layers = static_cast<int64_t>(header.moe_layers.size()),
                                              .num_experts = header.num_experts,
                                              .redundant_experts = config.balance().redundant_experts(),
                                              .expert_bytes = header.expert_bytes}));
  return BalanceCommand(arguments, config, header, std::move(workers)).run(reader, policies);
}

}  // namespace guildhall
