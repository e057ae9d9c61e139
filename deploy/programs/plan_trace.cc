#include "deploy/programs/plan_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "deploy/programs/settings.h"
#include "router/balance/load_window.h"
#include "router/balance/policies.h"
#include "router/balance/predict.h"
#include "router/balance/trace_file.h"

namespace guildhall {
namespace {

Result<void> check_model(const std::filesystem::path& file, const TraceHeader& header,
                         const ModelSpec& spec) {
  std::vector<int32_t> moe_layers;
  for (size_t layer = 0; layer < spec.is_moe_layer.size(); ++layer)
    if (spec.is_moe_layer[layer]) moe_layers.push_back(static_cast<int32_t>(layer));
  if (header.num_layers == spec.num_layers && header.num_experts == spec.moe.num_experts &&
      header.top_k == spec.moe.top_k && header.moe_layers == moe_layers)
    return {};
  return Status{
      Code::invalid_argument,
      fmt::format("--trace {}: it is of {}, {} of {} layers with {} experts top-{}; the model has {} "
                  "of {} with {} top-{}",
                  file.string(), header.model, header.moe_layers.size(), header.num_layers,
                  header.num_experts, header.top_k, moe_layers.size(), spec.num_layers, spec.moe.num_experts,
                  spec.moe.top_k)};
}

struct Hits {
  int64_t pairs = 0, reads = 0;
  Hits& operator+=(const ExpertLoad& load) {
    pairs += load.tokens(), reads += load.active_steps;
    return *this;
  }
};

void find_residents(const Loads& loads, const ModelSpec& spec, const ClusterPlan& plan, TraceOutlook& out) {
  const Placement even = even_split(spec, static_cast<int64_t>(plan.workers.size()), 1);
  Hits all, resident;
  for (size_t w = 0; w < plan.workers.size(); ++w) {
    const auto experts_l = even.experts_of(static_cast<int32_t>(w));
    for (size_t layer = 0; layer < experts_l.size(); ++layer) {
      std::vector<ExpertLoad> loads_e;
      for (const int32_t e : experts_l[layer])
        loads_e.push_back(loads.load_le[layer][static_cast<size_t>(e)]);
      std::ranges::sort(loads_e, std::ranges::greater(), &ExpertLoad::tokens);
      for (size_t i = 0; i < loads_e.size(); ++i) {
        all += loads_e[i];
        if (static_cast<int64_t>(i) < plan.workers[w].most_slots) resident += loads_e[i];
      }
    }
  }
  const auto part_of = [](int64_t some, int64_t whole) {
    return whole == 0 ? 1.0 : static_cast<double>(some) / static_cast<double>(whole);
  };
  out.resident_pairs = part_of(resident.pairs, all.pairs);
  out.resident_reads = part_of(resident.reads, all.reads);
}

// Balancedness with `redundant` experts more, packed by load, or of the even split.
Result<double> balancedness(const Loads& loads, const config::Config& config, const TraceHeader& header,
                            const ModelSpec& spec, int64_t redundant, Policy policy) {
  std::vector<WorkerInfo> infos;  // memory is another question
  for (const config::Worker& worker : config.experts().workers())
    infos.push_back({.name = worker.name(), .speed = part(worker.speed_millionths()), .node = worker.host()});
  GH_ASSIGN(const BalanceWorkers workers,
            plan_slots(infos, {.num_layers = static_cast<int64_t>(header.moe_layers.size()),
                               .num_experts = header.num_experts,
                               .redundant_experts = redundant}));
  const ReplicaPlacement even = even_placement(spec.is_moe_layer, header.num_experts, workers, 1);
  const Proposal proposal = propose(policy, loads, workers, even, {.num_groups = header.num_groups});
  return predict(loads, proposal.placement, workers, {}).mean_balancedness();
}

}  // namespace

Result<TraceOutlook> read_trace_outlook(const std::filesystem::path& file, const config::Config& config,
                                        const ModelSpec& spec, const ClusterPlan& plan) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return Status{Code::not_found, fmt::format("--trace {}: cannot be opened", file.string())};
  GH_ASSIGN(TraceReader reader, TraceReader::open(in, file.string()));
  GH_TRY(check_model(file, reader.header(), spec));
  LoadWindow whole(reader.header(), std::numeric_limits<int64_t>::max());
  TraceStep step;
  for (;;) {
    GH_ASSIGN(const bool more, reader.next(step));
    if (!more) break;
    whole.add(step);
  }
  const Loads loads = whole.loads();
  if (loads.num_steps == 0)
    return Status{Code::invalid_argument, fmt::format("--trace {}: the trace has no steps", file.string())};

  TraceOutlook out{.num_steps = loads.num_steps};
  find_residents(loads, spec, plan, out);
  const int64_t asked = config.balance().redundant_experts();
  out.redundant_experts = asked > 0 ? asked : std::max<int64_t>(1, spec.moe.num_experts / 8);
  const auto of = [&](int64_t redundant, Policy policy) {
    return balancedness(loads, config, reader.header(), spec, redundant, policy);
  };
  GH_ASSIGN(out.even, of(0, Policy::keep));
  GH_ASSIGN(out.packed, of(0, Policy::eplb));
  GH_ASSIGN(out.replicated, of(out.redundant_experts, Policy::eplb));
  return out;
}

}  // namespace guildhall
