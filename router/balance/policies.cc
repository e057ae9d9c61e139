#include "router/balance/policies.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "base/check.h"
#include "router/balance/layer_search.h"

namespace guildhall {
namespace {

constexpr std::array<std::pair<Policy, std::string_view>, 5> kPolicies{
    {{Policy::keep, "static"},
     {Policy::eplb, "eplb"},
     {Policy::eplb_node, "eplb_node"},
     {Policy::activation, "activation"},
     {Policy::incremental, "incremental"}}};
constexpr double kEvenEnough = 0.99;  // balancedness at which swapping on is not worth its time
constexpr double kWorthwhile = 1e-9;  // of a layer's time; keeps rounding from moving experts

bool fits(const LayerSlots& expert_ws, const BalanceWorkers& workers) {
  for (size_t w = 0; w < expert_ws.size(); ++w)
    if (expert_ws[w].size() > static_cast<size_t>(workers.slots_w[w])) return false;
  return true;
}

// What LayerSearch calls mean_time and max_time, of a placement as it is.
struct LayerTimes {
  double mean = 0, max = 0;
  double balancedness() const { return max <= 0 ? 1 : mean / max; }
};
LayerTimes times_of(const LayerSlots& expert_ws, const LayerCost& cost, const BalanceWorkers& workers) {
  std::vector<int32_t> count_e(cost.tokens_e.size());
  for (const auto& experts : expert_ws)
    for (const int32_t e : experts)
      if (e != kEmptySlot) ++count_e[static_cast<size_t>(e)];
  LayerTimes times;
  for (size_t w = 0; w < expert_ws.size(); ++w) {
    double load = 0;
    for (const int32_t e : expert_ws[w])
      if (e != kEmptySlot) load += cost.share(e, count_e[static_cast<size_t>(e)]);
    times.mean += load;
    times.max = std::max(times.max, load / workers.speed_w[w]);
  }
  times.mean /= std::accumulate(workers.speed_w.begin(), workers.speed_w.end(), 0.0);
  return times;
}

std::vector<int32_t> range(int64_t begin, int64_t end) {
  std::vector<int32_t> indices(static_cast<size_t>(end - begin));
  std::iota(indices.begin(), indices.end(), static_cast<int32_t>(begin));
  return indices;
}

int64_t slots_of(std::span<const int32_t> some, const BalanceWorkers& workers) {
  return std::accumulate(some.begin(), some.end(), int64_t{0}, [&](int64_t sum, int32_t w) {
    return sum + workers.slots_w[static_cast<size_t>(w)];
  });
}

// Which node each group's experts go to: the costliest group first, to the node that is done earliest and has
// slots for it. Empty: they do not fit.
std::vector<int32_t> nodes_of_groups(const LayerCost& cost, const BalanceWorkers& workers,
                                     int64_t num_groups) {
  const auto group_size = static_cast<int64_t>(cost.tokens_e.size()) / num_groups;
  const auto num_nodes = static_cast<size_t>(workers.num_nodes());
  std::vector<double> load_g(static_cast<size_t>(num_groups)), load_n(num_nodes), speed_n(num_nodes);
  for (size_t e = 0; e < cost.tokens_e.size(); ++e)
    load_g[e / static_cast<size_t>(group_size)] += cost.share(static_cast<int32_t>(e), 1);
  std::vector<int64_t> room_n(num_nodes);
  for (size_t w = 0; w < workers.size(); ++w) {
    room_n[static_cast<size_t>(workers.node_w[w])] += workers.slots_w[w];
    speed_n[static_cast<size_t>(workers.node_w[w])] += workers.speed_w[w];
  }
  std::vector<int32_t> dearest_first = range(0, num_groups);
  std::stable_sort(dearest_first.begin(), dearest_first.end(), [&](int32_t a, int32_t b) {
    return load_g[static_cast<size_t>(a)] > load_g[static_cast<size_t>(b)];
  });
  std::vector<int32_t> node_g(static_cast<size_t>(num_groups));
  for (const int32_t group : dearest_first) {
    const auto g = static_cast<size_t>(group);
    size_t best = num_nodes;
    for (size_t n = 0; n < num_nodes; ++n)
      if (room_n[n] >= group_size && (best == num_nodes || (load_n[n] + load_g[g]) / speed_n[n] <
                                                               (load_n[best] + load_g[g]) / speed_n[best]))
        best = n;
    if (best == num_nodes) return {};
    node_g[g] = static_cast<int32_t>(best);
    room_n[best] -= group_size;
    load_n[best] += load_g[g];
  }
  return node_g;
}

class LayerPolicy {
 public:
  LayerPolicy(Policy policy, const BalanceWorkers& workers, const PolicyOptions& options, int64_t num_experts)
      : policy_(policy),
        workers_(workers),
        options_(options),
        all_experts_(range(0, num_experts)),
        all_workers_(range(0, static_cast<int64_t>(workers.size()))),
        max_replicas_(static_cast<int32_t>(
            std::count_if(workers.slots_w.begin(), workers.slots_w.end(), [](int32_t s) { return s > 0; }))),
        moves_left_(options.max_moves) {}

  LayerCost cost_of(std::span<const ExpertLoad> load_e) const {
    return LayerCost(load_e, policy_ == Policy::activation ? LayerCost::Kind::decode_activations
                                                           : LayerCost::Kind::tokens);
  }

  LayerSlots arrange(const LayerCost& cost, const LayerSlots& current) {
    switch (policy_) {
      case Policy::keep:
      case Policy::incremental:
        return from_current(cost, current);
      case Policy::eplb:
        return packed(cost, workers_.slots()).slots(current);
      case Policy::eplb_node:
        return by_node(cost, current);
      case Policy::activation:
        return fewest_activations(cost, current);
    }
    return current;
  }

  int64_t layers_without_groups() const { return layers_without_groups_; }

 private:
  LayerSearch packed(const LayerCost& cost, int64_t num_slots) const {
    LayerSearch search(cost, workers_, {});
    search.replicate(all_experts_, num_slots, max_replicas_);
    search.pack(all_experts_, all_workers_);
    search.refine(kEvenEnough);
    return search;
  }

  LayerSlots by_node(const LayerCost& cost, const LayerSlots& current) {
    const std::vector<int32_t> node_g =
        grouping() ? nodes_of_groups(cost, workers_, options_.num_groups) : std::vector<int32_t>();
    if (node_g.empty()) {
      ++layers_without_groups_;
      return packed(cost, workers_.slots()).slots(current);
    }
    LayerSearch search(cost, workers_, {.spread_nodes = false, .within_node = true});
    const auto group_size = static_cast<int32_t>(all_experts_.size() / node_g.size());
    for (int32_t node = 0; node < workers_.num_nodes(); ++node) {
      std::vector<int32_t> experts, node_workers;
      for (const int32_t e : all_experts_)
        if (node_g[static_cast<size_t>(e / group_size)] == node) experts.push_back(e);
      for (const int32_t w : all_workers_)
        if (workers_.node_w[static_cast<size_t>(w)] == node) node_workers.push_back(w);
      search.replicate(experts, slots_of(node_workers, workers_), static_cast<int32_t>(node_workers.size()));
      search.pack(experts, node_workers);
    }
    search.refine(kEvenEnough);
    return search.slots(current);
  }

  bool grouping() const {
    return options_.num_groups > 1 && workers_.num_nodes() > 1 &&
           static_cast<int64_t>(all_experts_.size()) % options_.num_groups == 0;
  }

  // Replicas lower the peak only where an expert has few tokens per step; so slots may stay empty.
  LayerSlots fewest_activations(const LayerCost& cost, const LayerSlots& current) const {
    const auto num_experts = static_cast<int64_t>(all_experts_.size());
    const int64_t redundant = workers_.slots() - num_experts;
    LayerSearch best = packed(cost, num_experts);
    double best_time = best.max_time();
    LayerSlots slots = best.slots(current);
    for (int64_t used = redundant; used > 0; used /= 2) {
      const LayerSearch search = packed(cost, num_experts + used);
      if (search.max_time() >= best_time) continue;
      best_time = search.max_time();
      slots = search.slots(current);
    }
    return slots;
  }

  // What is there, put right where the slots changed; then, incremental: better step by step.
  LayerSlots from_current(const LayerCost& cost, const LayerSlots& current) {
    LayerSearch search(cost, workers_, {});
    search.start_from(current);
    const int64_t max_steps = 4 * workers_.slots();  // far more than a layer needs; bounds the time
    for (int64_t i = 0; policy_ == Policy::incremental && i < max_steps; ++i) {
      if (search.balancedness() >= options_.target) break;
      const int64_t moved = search.improve(moves_left_);
      if (moved == 0) break;
      moves_left_ -= moved;
    }
    return search.slots(current);
  }

  const Policy policy_;
  const BalanceWorkers& workers_;
  const PolicyOptions& options_;
  const std::vector<int32_t> all_experts_, all_workers_;
  const int32_t max_replicas_;
  int64_t moves_left_;
  int64_t layers_without_groups_ = 0;
};

struct Tally {
  int64_t kept = 0, changed = 0, repaired = 0;
  double worst_before = 1, worst_after = 1;
};

std::vector<std::string> reasons_of(const Tally& tally, const LayerPolicy& layers, Policy policy) {
  std::vector<std::string> reasons;
  const std::string_view what = policy == Policy::activation ? "weights read per decode step" : "tokens";
  reasons.push_back(fmt::format("least even layer by {}: balancedness {:.3f} -> {:.3f}", what,
                                tally.worst_before, tally.worst_after));
  reasons.push_back(
      fmt::format("{} layers change, {} stay: nothing better was found", tally.changed, tally.kept));
  if (tally.repaired > 0)
    reasons.push_back(fmt::format(
        "{} layers had more on a worker than it has slots for; they were arranged anew", tally.repaired));
  if (layers.layers_without_groups() > 0)
    reasons.push_back(
        fmt::format("{} layers are balanced over all nodes: the gate's groups do not fit the nodes",
                    layers.layers_without_groups()));
  return reasons;
}

}  // namespace

std::string_view to_string(Policy policy) {
  for (const auto& [known, name] : kPolicies)
    if (known == policy) return name;
  return "";
}

Result<Policy> parse_policy(std::string_view name) {
  for (const auto& [policy, known] : kPolicies)
    if (known == name) return policy;
  return Status{Code::invalid_argument, fmt::format("policy '{}' is not one of: static, eplb, eplb_node, "
                                                    "activation, incremental",
                                                    name)};
}

Proposal propose(Policy policy, const Loads& loads, const BalanceWorkers& workers,
                 const ReplicaPlacement& current, const PolicyOptions& options) {
  GH_CHECK(static_cast<int64_t>(loads.load_le.size()) == current.num_layers());
  GH_CHECK(static_cast<int64_t>(workers.size()) == current.num_workers());
  GH_CHECK(workers.slots() >= current.num_experts());
  LayerPolicy layers(policy, workers, options, current.num_experts());
  std::vector<LayerSlots> expert_lws(static_cast<size_t>(current.num_layers()));
  Tally tally;

  // The layers that lose most time come first, where moves may run out.
  std::vector<std::pair<double, size_t>> by_loss;
  std::vector<LayerCost> cost_l;
  for (size_t layer = 0; layer < expert_lws.size(); ++layer) {
    cost_l.push_back(layers.cost_of(loads.load_le[layer]));
    if (!current.has_experts(static_cast<int64_t>(layer))) continue;
    const LayerTimes times = times_of(current.layer(static_cast<int64_t>(layer)), cost_l[layer], workers);
    by_loss.emplace_back(times.mean - times.max, layer);
  }
  std::sort(by_loss.begin(), by_loss.end());
  for (const auto& [loss, layer] : by_loss) {
    const LayerSlots& before = current.layer(static_cast<int64_t>(layer));
    const LayerTimes times_before = times_of(before, cost_l[layer], workers);
    const bool valid = fits(before, workers);
    expert_lws[layer] = policy == Policy::keep && valid ? before : layers.arrange(cost_l[layer], before);
    LayerTimes times_after = times_of(expert_lws[layer], cost_l[layer], workers);
    if (valid && times_after.max >= times_before.max * (1 - kWorthwhile)) {
      expert_lws[layer] = before;
      times_after = times_before;
    }
    ++(expert_lws[layer] == before ? tally.kept : tally.changed);
    tally.repaired += !valid;
    tally.worst_before = std::min(tally.worst_before, times_before.balancedness());
    tally.worst_after = std::min(tally.worst_after, times_after.balancedness());
  }
  std::vector<std::string> reasons = reasons_of(tally, layers, policy);
  if (tally.changed == 0) return {current, std::move(reasons)};
  auto placement = ReplicaPlacement::create(current.version() + 1, current.num_experts(),
                                            current.num_workers(), std::move(expert_lws));
  GH_CHECK(placement.has_value());
  return {*std::move(placement), std::move(reasons)};
}

ReplicaPlacement even_placement(const std::vector<bool>& moe_layers, int64_t num_experts,
                                const BalanceWorkers& workers, uint32_t version) {
  const auto num_workers = static_cast<int64_t>(workers.size());
  LayerSlots expert_ws(workers.size());
  std::vector<int32_t> rest;
  for (int64_t e = 0; e < num_experts; ++e) {
    auto& home = expert_ws[static_cast<size_t>(((e + 1) * num_workers - 1) / num_experts)];
    const auto slots = static_cast<size_t>(workers.slots_w[static_cast<size_t>(&home - expert_ws.data())]);
    if (home.size() < slots)
      home.push_back(static_cast<int32_t>(e));
    else
      rest.push_back(static_cast<int32_t>(e));
  }
  size_t w = 0;
  for (const int32_t e : rest) {
    while (w < expert_ws.size() && expert_ws[w].size() == static_cast<size_t>(workers.slots_w[w])) ++w;
    GH_CHECK(w < expert_ws.size());
    expert_ws[w].push_back(e);
  }
  std::vector<LayerSlots> expert_lws(moe_layers.size());
  for (size_t layer = 0; layer < moe_layers.size(); ++layer)
    if (moe_layers[layer]) expert_lws[layer] = expert_ws;
  auto placement = ReplicaPlacement::create(version, num_experts, num_workers, std::move(expert_lws));
  GH_CHECK(placement.has_value());
  return *std::move(placement);
}

}  // namespace guildhall
