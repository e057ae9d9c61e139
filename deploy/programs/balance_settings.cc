#include "deploy/programs/balance_settings.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/units.h"
#include "deploy/programs/routers.h"
#include "deploy/programs/settings.h"
#include "model/weights.h"

namespace guildhall {
namespace {

constexpr double kReadBytesPerNs = 20, kFlopPerNs = 200;  // as `guildhall balance` assumes

int64_t num_moe_layers(const ModelSpec& spec) {
  return std::count(spec.is_moe_layer.begin(), spec.is_moe_layer.end(), true);
}

}  // namespace

std::vector<WorkerInfo> worker_infos(const config::Config& config) {
  std::vector<WorkerInfo> workers;
  for (const config::Worker& worker : config.experts().workers())
    workers.push_back({.name = worker.name(),
                       .memory_bytes = holding_limit(config, worker),
                       .speed = part(worker.speed_millionths()),
                       .node = worker.host()});
  return workers;
}

GateOptions gate_options(const config::Balance& balance, int64_t expert_bytes) {
  return {.min_gain = part(balance.min_gain_millionths()),
          .horizon_s = static_cast<double>(balance.horizon_us()) / 1e6,
          .max_moves = balance.max_moves(),
          .max_bytes = balance.max_bytes_bytes(),
          .expert_bytes = expert_bytes,
          .move_bytes_per_s = static_cast<double>(balance.move_rate_bytes()),
          .slowdown = part(balance.move_slowdown_millionths())};
}

BalancerOptions balancer_options(const config::Balance& balance, const ModelSpec& spec) {
  const Result<Policy> policy = parse_policy(balance.policy());
  GH_CHECK(policy.has_value());  // the schema allows no other
  BalancerOptions options{.policy = *policy,
                          .observe = balance.mode() == "observe",
                          .repair = balance.repair() == "true",
                          .redundant_experts = balance.redundant_experts(),
                          .window_steps = balance.window_steps(),
                          .interval = std::chrono::microseconds(balance.interval_us()),
                          .gate = gate_options(balance, expert_bytes(spec))};
  options.policy_options.num_groups = spec.moe.gate.num_groups;
  return options;
}

BalancedModel balanced_model(const config::Config& config, const ModelSpec& spec) {
  const int64_t expert_params = 3 * spec.hidden * spec.moe.expert_width;
  return {.experts = expert_grid(spec),
          .expert_bytes = expert_bytes(spec),
          .assumed_costs = {.pair_ns = 2 * static_cast<double>(expert_params) / kFlopPerNs,
                            .activation_ns = static_cast<double>(expert_bytes(spec)) / kReadBytesPerNs},
          .workers = worker_infos(config)};
}

std::string why_not_balancing(const config::Config& all, const std::string& router_name) {
  if (all.transport().kind() == "loopback")
    return "transport.kind is loopback: the workers are in the router's process";
  const std::string first = routers_of(all).front().settings.name();
  if (router_name != first) return fmt::format("the first of routers balances: {}", first);
  return {};
}

std::vector<std::string> describe_balancing(const config::Config& config, const ModelSpec& spec) {
  const config::Balance& balance = config.balance();
  const std::string first = routers_of(config).front().settings.name();
  const bool is_static = balance.policy() == "static";
  std::vector<std::string> lines;
  if (const std::string why = why_not_balancing(config, first); !why.empty()) {
    if (!is_static) lines.push_back(fmt::format("policy {} is not active: {}", balance.policy(), why));
    return lines;
  }
  if (is_static) return {};
  const int64_t layers = num_moe_layers(spec), bytes = expert_bytes(spec);
  const Result<BalanceWorkers> slots =
      plan_serving_slots(worker_infos(config), {.num_layers = layers,
                                                .num_experts = spec.moe.num_experts,
                                                .redundant_experts = balance.redundant_experts(),
                                                .expert_bytes = bytes});
  if (slots.has_error()) return {slots.error().message};
  const auto interval = std::chrono::microseconds(balance.interval_us());
  const GateOptions gate = gate_options(balance, bytes);
  lines.push_back(fmt::format("{} {}: {} slots per layer on {} workers, {} experts; {} layers",
                              balance.policy(), balance.mode(), slots->slots(), slots->size(),
                              spec.moe.num_experts, layers));
  if (const int64_t wanted = spec.moe.num_experts + balance.redundant_experts(); slots->slots() < wanted)
    lines.push_back(fmt::format("balance.redundant_experts: {} asked for, {} fit in the workers' memory",
                                balance.redundant_experts(), slots->slots() - spec.moe.num_experts));
  lines.push_back(fmt::format(
      "every {}: at most {} experts of {} each move, at up to {}/s to each worker; they must save {:g}% of "
      "the experts' time per step",
      format_duration(interval), gate.most_moves(), format_bytes(bytes),
      format_bytes(balance.move_rate_bytes()), 100 * gate.min_gain));
  return lines;
}

}  // namespace guildhall
