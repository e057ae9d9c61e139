#include "deploy/programs/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <iterator>

#include "base/units.h"
#include "deploy/programs/plan_floors.h"
#include "deploy/programs/settings.h"

namespace guildhall {
namespace {

GateShape gate_of(const ModelSpec& spec) { return {spec.moe.num_experts, spec.moe.top_k}; }

double workers_of_a_token(const PlanReport& report) {
  std::vector<int64_t> experts_w;
  for (const WorkerPlan& worker : report.plan.workers) experts_w.push_back(worker.share);
  return expected_workers(gate_of(report.spec), experts_w);
}

std::string bytes_of(double bytes) { return format_bytes(static_cast<int64_t>(bytes)); }

bool same_items(const MemoryNeed& a, const MemoryNeed& b) {
  const auto same = [](const MemoryItem& x, const MemoryItem& y) {
    return x.what == y.what && x.bytes == y.bytes;
  };
  return a.where == b.where && std::ranges::equal(a.items, b.items, same);
}

class Text {
 public:
  explicit Text(const PlanReport& report) : report_(report), plan_(report.plan) {}

  std::string run() {
    print_model();
    print_needs();
    print_caches();
    print_estimates();
    print_trace();
    print_verdict();
    return std::move(out_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  void print_model() {
    const ModelSpec& spec = report_.spec;
    line("{} ({}): {} layers, {} of them with {} experts top-{} of {} each, {} in all",
         report_.config.model().name(), spec.model_type, spec.num_layers, plan_.num_moe_layers,
         spec.moe.num_experts, spec.moe.top_k, format_bytes(plan_.one_expert_bytes),
         format_bytes(plan_.all_experts_bytes));
    for (const std::string& note : report_.notes) line("{}", note);
    line("");
  }

  // Needs that are alike, as those of most workers are, once.
  void print_needs() {
    std::vector<bool> shown(plan_.needs.size());
    for (size_t i = 0; i < plan_.needs.size(); ++i) {
      if (shown[i]) continue;
      std::vector<std::string> names;
      for (size_t j = i; j < plan_.needs.size(); ++j) {
        if (shown[j] || !same_items(plan_.needs[i], plan_.needs[j]) || !same_pools(i, j)) continue;
        shown[j] = true;
        names.push_back(plan_.needs[j].process);
      }
      print_need(plan_.needs[i], names);
    }
    for (const MemoryPool& pool : plan_.pools)
      if (num_needs(pool) > 1)
        line("{}: {} together{}", pool.name, format_bytes(pool.needed_bytes), limit_of(pool));
    line("");
  }

  void print_need(const MemoryNeed& need, const std::vector<std::string>& names) {
    const MemoryPool& pool = plan_.pools[need.pool_idx];
    if (need.items.empty()) return;
    line("{}, {}{}", list_names(names), need.where, names.size() > 1 ? ", each" : "");
    for (const MemoryItem& item : need.items)
      line("  {:<54} {:>10}{}", item.what, format_bytes(item.bytes), item.is_estimate ? "  (estimate)" : "");
    line("  {:<54} {:>10}{}", "total", format_bytes(need.total_bytes()),
         num_needs(pool) > 1 ? "" : limit_of(pool));
  }

  bool same_pools(size_t i, size_t j) const {
    const MemoryPool &a = plan_.pools[plan_.needs[i].pool_idx], &b = plan_.pools[plan_.needs[j].pool_idx];
    return a.limit_bytes == b.limit_bytes && a.from == b.from;
  }

  int64_t num_needs(const MemoryPool& pool) const {
    return std::ranges::count_if(plan_.needs, [&](const MemoryNeed& need) {
      return &plan_.pools[need.pool_idx] == &pool && !need.items.empty();
    });
  }

  static std::string limit_of(const MemoryPool& pool) {
    if (pool.limit_bytes == 0) return "";
    return fmt::format("  of {} ({})", format_bytes(pool.limit_bytes), pool.from);
  }

  void print_caches() {
    for (const RouterPlan& router : plan_.routers) {
      const std::string each = router.num_replicas > 1 ? ", in each replica" : "";
      if (!router.capacity_tokens) {
        line("{}: KV cache as measured at start; a sequence of {} tokens takes {}{}", router.name,
             router.max_model_len, format_bytes(router.token_bytes * router.max_model_len), each);
        continue;
      }
      line("{}: the KV cache holds {} tokens: {:.1f} sequences of {} (model.max_model_len), at {} a token{}",
           router.name, *router.capacity_tokens,
           static_cast<double>(*router.capacity_tokens) / static_cast<double>(router.max_model_len),
           router.max_model_len, format_bytes(router.token_bytes), each);
    }
    line("");
  }

  void print_estimates() {
    if (plan_.num_moe_layers == 0) return;
    line("Estimates, every expert being chosen as often:");
    line("  {:<26} {:>16} {:>20} {:>12}", "a step reads", "experts a layer", "their weights", "per worker");
    for (const ReadEstimate& read : estimate_reads(report_))
      line("  {:<26} {:>16.1f} {:>20} {:>12}", fmt::format("{}, {} tokens", read.phase, read.num_tokens),
           read.experts, bytes_of(read.bytes),
           bytes_of(read.bytes / static_cast<double>(plan_.workers.size())));
    line("  a token's choices lie on {:.1f} of {} workers; bytes per token and layer:",
         workers_of_a_token(report_), plan_.workers.size());
    line("  {:<26} {:>16} {:>20} {:>12}", "transport.codec", "out", "back, exact", "reduced");
    for (const WireEstimate& wire : estimate_wire(report_))
      line("  {:<26} {:>16} {:>20} {:>12}{}", wire.codecs, bytes_of(wire.out), bytes_of(wire.back_exact),
           bytes_of(wire.back_reduced), wire.is_configured ? "  (configured)" : "");
    line("");
  }

  void print_trace() {
    if (!report_.trace) return;
    const TraceOutlook& trace = *report_.trace;
    line("The trace, {} steps, as if it had been known before:", trace.num_steps);
    if (report_.advice.resident < report_.spec.moe.num_experts)
      line(
          "  with the hottest experts in memory: {:.1f}% of choices, {:.1f}% of reads of weights find theirs "
          "there",
          100 * trace.resident_pairs, 100 * trace.resident_reads);
    line("  balancedness: {:.3f} split evenly, {:.3f} packed by load, {:.3f} with {} redundant experts",
         trace.even, trace.packed, trace.replicated, trace.redundant_experts);
    line("");
  }

  void print_verdict() {
    const bool is_known =
        std::ranges::any_of(plan_.pools, [](const auto& p) { return p.limit_bytes > 0; }) ||
        std::ranges::any_of(plan_.workers, [](const auto& w) { return w.usable_bytes.has_value(); });
    line("{}", !plan_.fits() ? "Does not fit:"
               : is_known    ? "Fits."
                             : "Nothing is known that it would not fit.");
    for (const std::string& problem : plan_.problems) line("  {}", problem);
    if (!report_.advice.lines.empty()) line("{}", plan_.fits() ? "Room:" : "What would:");
    for (const std::string& advice : report_.advice.lines) line("  {}", advice);
    if (!report_.advice.offload_yaml.empty()) out_ += "\n" + report_.advice.offload_yaml;
  }

  const PlanReport& report_;
  const ClusterPlan& plan_;
  std::string out_;
};

boost::json::array memory_json(const ClusterPlan& plan) {
  boost::json::array memory;
  for (const MemoryNeed& need : plan.needs) {
    boost::json::array items;
    for (const MemoryItem& item : need.items)
      items.push_back({{"what", item.what}, {"bytes", item.bytes}, {"estimate", item.is_estimate}});
    memory.push_back({{"process", need.process},
                      {"where", need.where},
                      {"pool", plan.pools[need.pool_idx].name},
                      {"items", std::move(items)},
                      {"total_bytes", need.total_bytes()}});
  }
  return memory;
}

template <class T>
boost::json::value or_null(const std::optional<T>& value) {
  return value ? boost::json::value(*value) : boost::json::value();
}

boost::json::object processes_json(const ClusterPlan& plan) {
  boost::json::array routers, workers, pools;
  for (const RouterPlan& router : plan.routers)
    routers.push_back({{"name", router.name},
                       {"replicas", router.num_replicas},
                       {"ranks", router.num_ranks},
                       {"weights_bytes", router.weights_bytes},
                       {"max_model_len", router.max_model_len},
                       {"kv_bytes_per_token", router.token_bytes},
                       {"kv_capacity_tokens", or_null(router.capacity_tokens)},
                       {"kv_room_bytes", or_null(router.kv_room_bytes)}});
  for (const WorkerPlan& worker : plan.workers)
    workers.push_back({{"name", worker.name},
                       {"experts_per_layer", worker.share},
                       {"slots_per_layer", worker.slots},
                       {"most_slots_per_layer", worker.most_slots},
                       {"usable_bytes", or_null(worker.usable_bytes)}});
  for (const MemoryPool& pool : plan.pools)
    pools.push_back({{"name", pool.name},
                     {"needed_bytes", pool.needed_bytes},
                     {"limit_bytes", pool.limit_bytes},
                     {"from", pool.from},
                     {"fits", pool.fits()}});
  return {{"routers", std::move(routers)},
          {"workers", std::move(workers)},
          {"memory", memory_json(plan)},
          {"pools", std::move(pools)}};
}

boost::json::object advice_json(const PlanAdvice& advice) {
  return {{"lines", boost::json::value_from(advice.lines)},
          {"workers_needed", advice.workers_needed},
          {"workers_for_redundant", advice.workers_for_redundant},
          {"redundant_fit", advice.redundant_fit},
          {"resident_per_layer", advice.resident},
          {"resident_share", advice.resident_share},
          {"largest_context", advice.largest_context},
          {"offload_yaml", advice.offload_yaml}};
}

boost::json::object estimates_json(const PlanReport& report) {
  boost::json::array reads, wire;
  for (const ReadEstimate& read : estimate_reads(report))
    reads.push_back({{"phase", read.phase},
                     {"tokens", read.num_tokens},
                     {"experts_per_layer", read.experts},
                     {"bytes", read.bytes}});
  for (const WireEstimate& one : estimate_wire(report))
    wire.push_back({{"codec", one.codecs},
                    {"out", one.out},
                    {"back_exact", one.back_exact},
                    {"back_reduced", one.back_reduced},
                    {"configured", one.is_configured}});
  return {{"workers_per_token", workers_of_a_token(report)},
          {"reads", std::move(reads)},
          {"wire_bytes_per_token_layer", std::move(wire)}};
}

}  // namespace

std::vector<ReadEstimate> estimate_reads(const PlanReport& report) {
  std::vector<ReadEstimate> reads;
  const auto add = [&](std::string_view phase, int64_t num_tokens) {
    const double experts = expected_experts(gate_of(report.spec), num_tokens);
    reads.push_back(
        {phase, num_tokens, experts,
         experts * static_cast<double>(report.plan.num_moe_layers * report.plan.one_expert_bytes)});
  };
  for (const int64_t batch : {1, 8, 32}) add("decode", batch);
  add("prefill", report.config.router().batching().max_batched_tokens());
  return reads;
}

std::vector<WireEstimate> estimate_wire(const PlanReport& report) {
  const double workers = workers_of_a_token(report);
  const RowCodecs configured = row_codecs(report.config.experts().workers(0));
  std::vector<std::pair<std::string, RowCodecs>> shown{{"f32", {Codec::f32, Codec::f32}},
                                                       {"bf16", {Codec::bf16, Codec::bf16}},
                                                       {"fp8", {Codec::fp8, Codec::fp8}}};
  if (configured.dispatch != configured.combine)
    shown.push_back({fmt::format("{} out, {} back", report.config.experts().workers(0).dispatch_codec(),
                                 report.config.experts().workers(0).combine_codec()),
                     configured});
  std::vector<WireEstimate> estimates;
  for (const auto& [name, codecs] : shown) {
    const auto of = [&](Combine combine) {
      return wire_bytes(gate_of(report.spec), codecs, combine, report.spec.hidden, workers);
    };
    const bool is_configured = codecs.dispatch == configured.dispatch && codecs.combine == configured.combine;
    const WireBytes exact = of(Combine::exact);
    estimates.push_back({name, exact.out, exact.back, of(Combine::reduced).back, is_configured});
  }
  return estimates;
}

std::string plan_text(const PlanReport& report) { return Text(report).run(); }

std::string plan_json(const PlanReport& report, const std::string& suggestion) {
  const ModelSpec& spec = report.spec;
  boost::json::object out{{"fits", report.plan.fits()},
                          {"model",
                           {{"name", report.config.model().name()},
                            {"type", spec.model_type},
                            {"layers", spec.num_layers},
                            {"moe_layers", report.plan.num_moe_layers},
                            {"experts", spec.moe.num_experts},
                            {"top_k", spec.moe.top_k},
                            {"expert_bytes", report.plan.one_expert_bytes},
                            {"all_experts_bytes", report.plan.all_experts_bytes}}},
                          {"notes", boost::json::value_from(report.notes)},
                          {"problems", boost::json::value_from(report.plan.problems)},
                          {"advice", advice_json(report.advice)},
                          {"estimates", estimates_json(report)}};
  for (const auto& member : processes_json(report.plan)) out[member.key()] = member.value();
  if (report.trace)
    out["trace"] = {{"steps", report.trace->num_steps},
                    {"resident_choices", report.trace->resident_pairs},
                    {"resident_reads", report.trace->resident_reads},
                    {"balancedness_even", report.trace->even},
                    {"balancedness_packed", report.trace->packed},
                    {"balancedness_redundant", report.trace->replicated},
                    {"redundant_experts", report.trace->redundant_experts}};
  if (!suggestion.empty()) out["suggested_config"] = suggestion;
  return boost::json::serialize(out) + "\n";
}

}  // namespace guildhall
