#include "router/http/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <sstream>

namespace guildhall {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Sample {
  std::string label_value;  // empty: no label
  double value;
  std::vector<ClientMetric::Label> more_labels = {};
};

class Families {
 public:
  void gauge(std::string name, std::string help, std::string label, std::vector<Sample> samples) {
    add(MetricType::Gauge, std::move(name), std::move(help), label, samples);
  }
  void counter(std::string name, std::string help, std::string label, std::vector<Sample> samples) {
    add(MetricType::Counter, std::move(name), std::move(help), label, samples);
  }
  void histogram(std::string name, std::string help, const Histogram& histogram) {
    ClientMetric metric;
    uint64_t cumulative = 0;
    for (size_t i = 0; i < histogram.bounds().size(); ++i) {
      cumulative += static_cast<uint64_t>(histogram.count(i));
      metric.histogram.bucket.push_back({cumulative, histogram.bounds()[i]});
    }
    metric.histogram.sample_count = static_cast<uint64_t>(histogram.total());
    metric.histogram.sample_sum = histogram.sum();
    families_.push_back(
        {"guildhall_" + std::move(name), std::move(help), MetricType::Histogram, {std::move(metric)}});
  }
  std::string text() const {
    std::ostringstream out;
    prometheus::TextSerializer().Serialize(out, families_);
    return out.str();
  }

 private:
  void add(MetricType type, std::string name, std::string help, const std::string& label,
           const std::vector<Sample>& samples) {
    if (samples.empty()) return;  // nothing is known of it yet
    MetricFamily family{"guildhall_" + std::move(name), std::move(help), type, {}};
    for (const Sample& sample : samples) {
      ClientMetric metric;
      if (!label.empty()) metric.label.push_back({label, sample.label_value});
      metric.label.insert(metric.label.end(), sample.more_labels.begin(), sample.more_labels.end());
      (type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) = sample.value;
      family.metric.push_back(std::move(metric));
    }
    families_.push_back(std::move(family));
  }

  std::vector<MetricFamily> families_;
};

Sample sample(std::string label_value, int64_t value) {
  return {std::move(label_value), static_cast<double>(value)};
}
Sample seconds(std::string label_value, int64_t ns) {
  return {std::move(label_value), static_cast<double>(ns) * 1e-9};
}

void add_status(const ServingStatus& status, Families& families) {
  families.gauge("ready", "1 when requests are served", "",
                 {sample("", status.state == ServingState::ready ? 1 : 0)});
  std::vector<Sample> up;
  for (const WorkerStatus& w : status.workers) up.push_back(sample(w.name, w.state == "ready" ? 1 : 0));
  families.gauge("worker_up", "1 when the worker is connected and its experts are loaded", "worker",
                 std::move(up));
  std::vector<Sample> load;
  const auto add_load = [&](const std::string& process, int64_t done, int64_t total) {
    load.push_back({process, static_cast<double>(done), {{"state", "done"}}});
    load.push_back({process, static_cast<double>(total), {{"state", "wanted"}}});
  };
  add_load("router", status.router_bytes_done, status.router_bytes_total);
  for (const WorkerStatus& w : status.workers) add_load(w.name, w.bytes_done, w.bytes_total);
  families.gauge("load_bytes", "Bytes of weights a process has loaded, and those it is to load", "process",
                 std::move(load));
}

void add_http(const HttpCounters& http, Families& families) {
  std::vector<Sample> answers;
  for (const auto& [which, count] : http.answers())
    answers.push_back({which.first, static_cast<double>(count), {{"status", std::to_string(which.second)}}});
  families.counter("http_requests_total", "Answers to HTTP requests; status 499: the client left first",
                   "endpoint", std::move(answers));
  families.gauge("http_connections", "Connections that are open", "", {sample("", http.num_connections)});
}

// Of what the other families tell as sums, the part of each replica that says how evenly work is spread.
void add_replicas(const std::vector<ReplicaStatus>& replicas, Families& families) {
  std::vector<Sample> up, running, waiting, outstanding, pages_used, generated;
  for (const ReplicaStatus& replica : replicas) {
    up.push_back(sample(replica.name, replica.serving ? 1 : 0));
    running.push_back(sample(replica.name, replica.counters.running));
    waiting.push_back(sample(replica.name, replica.counters.waiting));
    outstanding.push_back(sample(replica.name, replica.outstanding_tokens));
    pages_used.push_back(sample(replica.name, replica.counters.kv_pages_used));
    generated.push_back(sample(replica.name, replica.counters.generated_tokens));
  }
  const std::string label = "replica";
  families.gauge("replica_up", "1 when the replica has all workers", label, std::move(up));
  families.gauge("replica_running", "Sequences that run in the replica", label, std::move(running));
  families.gauge("replica_waiting", "Sequences that wait in the replica", label, std::move(waiting));
  families.gauge("replica_outstanding_tokens", "Tokens still to be computed, by which requests are spread",
                 label, std::move(outstanding));
  families.gauge("replica_kv_pages_used", "Used pages of the replica's KV cache", label,
                 std::move(pages_used));
  families.counter("replica_generated_tokens_total", "Tokens that the replica generated", label,
                   std::move(generated));
}

void add_peers(const std::vector<PeerStatus>& peers, Families& families) {
  std::vector<Sample> up, sent, failed;
  for (const PeerStatus& peer : peers) {
    up.push_back(sample(peer.name, peer.answers ? 1 : 0));
    sent.push_back(sample(peer.name, peer.num_sent));
    failed.push_back(sample(peer.name, peer.num_failed));
  }
  families.gauge("peer_up", "1 when the peer router tells its load", "peer", std::move(up));
  families.counter("peer_requests_total", "Requests forwarded to the peer", "peer", std::move(sent));
  families.counter("peer_failures_total", "Forwarded requests that the peer did not answer well", "peer",
                   std::move(failed));
}

void add_requests(const EngineCounters& c, Families& families) {
  families.gauge("requests", "Sequences in the engine", "state",
                 {sample("running", c.running), sample("waiting", c.waiting)});
  families.counter("prompt_tokens_total", "Prompt tokens computed", "", {sample("", c.prompt_tokens)});
  families.counter("generated_tokens_total", "Tokens generated", "", {sample("", c.generated_tokens)});
  families.counter("preemptions_total", "Sequences put back, to be recomputed or with their pages kept",
                   "kind",
                   {sample("recompute", c.preemptions_recompute), sample("swap", c.preemptions_swap)});
}

void add_kv_cache(const ServingStatus& status, const EngineCounters& c, Families& families) {
  families.gauge("kv_capacity_tokens", "Tokens that the KV cache holds", "dtype",
                 {sample(status.kv_dtype, status.kv_capacity_tokens)});
  families.gauge("kv_pages", "Pages of the KV cache", "state",
                 {sample("used", c.kv_pages_used), sample("free", c.kv_pages_total - c.kv_pages_used)});
  families.gauge("kv_usage_ratio", "Used part of the KV cache's pages, 0 to 1", "",
                 {{"", c.kv_pages_total == 0
                           ? 0.0
                           : static_cast<double>(c.kv_pages_used) / static_cast<double>(c.kv_pages_total)}});
  families.gauge("kv_pages_findable", "Pages, used or free, that later prompts may begin with", "",
                 {sample("", c.kv_pages_findable)});
  families.gauge("kv_slots", "Token slots of used pages", "state",
                 {sample("filled", c.kv_slots_filled), sample("empty", c.kv_slots_empty)});
  families.gauge(
      "kv_swap_pages", "Pages of host memory for preempted sequences", "state",
      {sample("used", c.kv_swap_pages_used), sample("free", c.kv_swap_pages_total - c.kv_swap_pages_used)});
  families.counter("kv_swap_bytes_total", "Bytes of pages copied to host memory and back", "direction",
                   {sample("out", c.kv_swap_bytes_out), sample("in", c.kv_swap_bytes_in)});
  families.gauge("kv_spill_pages", "Pages of the file for what the KV cache gives up", "state",
                 {sample("used", c.kv_spill_slots_used),
                  sample("free", c.kv_spill_slots_total - c.kv_spill_slots_used)});
  families.counter("kv_spill_bytes_total", "Bytes of pages written to the spill file and read back",
                   "direction",
                   {sample("written", c.kv_spill_bytes_written), sample("read", c.kv_spill_bytes_read)});
  families.counter(
      "kv_spill_pages_total", "Pages by what came of them with the spill file", "outcome",
      {sample("written", c.kv_spill_pages_written), sample("read", c.kv_spill_pages_read),
       sample("dropped", c.kv_spill_pages_dropped), sample("damaged", c.kv_spill_pages_damaged)});
  families.counter("kv_spill_hits_total", "Requests of whose prompt some was read from the spill file", "",
                   {sample("", c.kv_spill_hits)});
  families.counter("prefix_queries_total", "Requests whose prompt was looked up in the KV cache", "",
                   {sample("", c.prefix_queries)});
  families.counter("prefix_hits_total", "Requests of whose prompt some was found in the KV cache", "",
                   {sample("", c.prefix_hits)});
  families.counter("prefix_tokens_looked_up_total", "Prompt tokens looked up in the KV cache", "",
                   {sample("", c.prefix_tokens_looked_up)});
  families.counter("prefix_tokens_found_total", "Prompt tokens found in the KV cache", "",
                   {sample("", c.prefix_tokens_found)});
}

void add_finished(const ServingStats& stats, Families& families) {
  std::vector<Sample> finished;
  for (size_t reason = 0; reason < kNumFinishReasons; ++reason)
    finished.push_back(sample(kFinishReasonNames[reason], stats.finished[reason]));
  families.counter("requests_finished_total", "Sequences that left the engine, by why", "reason",
                   std::move(finished));
}

void add_latencies(const ServingStats& stats, Families& families) {
  families.histogram("time_to_first_token_seconds",
                     "From a request's arrival at the engine to its first token", stats.time_to_first_token);
  families.histogram("inter_token_latency_seconds", "From one token of a request to its next",
                     stats.inter_token_latency);
  families.histogram("e2e_request_latency_seconds", "From a request's arrival at the engine to its end",
                     stats.end_to_end);
  families.histogram("request_queue_time_seconds", "From arrival to the first step a request is part of",
                     stats.queue_time);
  families.histogram("request_prefill_time_seconds", "From a request's first step to its first token",
                     stats.prefill_time);
  families.histogram("request_decode_time_seconds", "From a request's first token to its last",
                     stats.decode_time);
  families.histogram("request_prompt_tokens", "Prompt lengths of finished requests",
                     stats.request_prompt_tokens);
  families.histogram("request_generated_tokens", "Tokens generated for finished requests",
                     stats.request_generated_tokens);
}

void add_steps(const EngineCounters& c, Families& families) {
  families.histogram("step_tokens", "Tokens of a step, decode and prefill together", c.serving.step_tokens);
  families.histogram("step_sequences", "Sequences of a step: its batch size", c.serving.step_sequences);
  families.histogram("step_duration_seconds", "Time of a step that succeeded", c.serving.step_seconds);
  families.counter("steps_total", "Steps that succeeded, by the micro-batches they ran as", "micro_batches",
                   {sample("1", c.steps_by_micro_batches[0]), sample("2", c.steps_by_micro_batches[1])});
  families.counter("step_seconds_total", "Time spent in steps that succeeded", "", {seconds("", c.step_ns)});
  std::vector<Sample> parts;
  for (size_t part = 0; part < kNumStepParts; ++part)
    parts.push_back(seconds(kStepPartNames[part], c.part_ns[part]));
  families.counter("step_part_seconds_total", "Time of the engine's thread by part of a step", "part",
                   std::move(parts));
}

void add_exchange(const EngineCounters& c, Families& families) {
  families.counter("exchange_bytes_total", "Bytes of frames to and from workers", "direction",
                   {sample("sent", c.bytes_sent), sample("received", c.bytes_received)});
  families.counter("exchange_rounds_total", "Dispatches: one per layer and micro-batch", "",
                   {sample("", c.dispatches)});
  families.counter("exchange_pairs_total", "(token, expert) pairs dispatched", "", {sample("", c.pairs)});
  families.counter("exchange_stale_frames_total", "Answers that came when nobody waited for them", "",
                   {sample("", c.stale_frames)});
}

void add_balance(const BalanceStatus& b, Families& families) {
  std::vector<Sample> alarms, decisions;
  for (size_t i = 0; i < kNumBalanceAlarms; ++i) {
    const bool raised = std::ranges::any_of(
        b.alarms, [&](const RaisedAlarm& alarm) { return static_cast<size_t>(alarm.alarm) == i; });
    alarms.push_back(sample(std::string(kBalanceAlarmNames[i]), raised ? 1 : 0));
  }
  for (size_t i = 0; i < kNumDecisionOutcomes; ++i)
    if (static_cast<DecisionOutcome>(i) != DecisionOutcome::moving)
      decisions.push_back(sample(std::string(kDecisionOutcomeNames[i]), b.decisions[i]));
  families.gauge("balance_alarm", "1 while balancing stalls in this way", "alarm", std::move(alarms));
  families.counter("balance_decisions_total", "Decisions of the balancer, by what came of them", "outcome",
                   std::move(decisions));
  families.counter("balance_moved_experts_total", "Experts that workers brought in and gave up", "kind",
                   {sample("add", b.added_experts), sample("drop", b.dropped_experts)});
  families.counter("balance_moved_bytes_total", "Bytes of experts that workers brought in", "",
                   {sample("", b.added_bytes)});
  families.counter("balance_repaired_experts_total", "Experts brought in that nobody held", "",
                   {sample("", b.repaired_experts)});
  families.counter("balance_failed_moves_total", "Moves that failed", "", {sample("", b.failed_moves)});
  families.gauge("balance_missing_experts", "Experts that nobody holds", "", {sample("", b.num_missing)});
  int64_t under_way = 0;
  for (const MoveStatus& move : b.moves) under_way += move.num_experts;
  families.gauge("balance_experts_under_way", "Experts in moves under way", "", {sample("", under_way)});
  const auto measured =
      std::ranges::find_if(b.history, [](const DecisionRecord& record) { return record.actual.has_value(); });
  if (measured == b.history.end()) return;
  families.gauge("balance_gain_ratio", "Part of the experts' time per step that the last change saved",
                 "kind", {{"predicted", measured->predicted.gain()}, {"actual", measured->actual->gain()}});
  families.gauge(
      "balance_last_balancedness", "Mean over maximum of the workers' tokens at the last change", "when",
      {{"before", measured->actual->balancedness_before}, {"after", measured->actual->balancedness_after}});
}

void add_layers(const ExpertsReport& report, Families& families) {
  families.gauge("expert_window_steps", "Steps whose routing the window holds", "",
                 {sample("", report.loads.num_steps)});
  families.gauge("expert_window_seconds", "From the window's first step to now", "", {{"", report.window_s}});
  std::vector<Sample> balancedness, hottest;
  for (const int32_t layer : report.shape.moe_layers) {
    balancedness.push_back({std::to_string(layer), report.balancedness(layer)});
    hottest.push_back({std::to_string(layer), report.hottest_ratio(layer)});
  }
  families.gauge("expert_layer_balancedness",
                 "Mean over maximum of the workers' pairs in the window, by speed; 1: even", "layer",
                 std::move(balancedness));
  families.gauge("expert_layer_hottest_ratio",
                 "Pairs of the layer's hottest expert in the window, over the mean of its experts", "layer",
                 std::move(hottest));
  const ExpertLoad& total = report.totals.load;
  families.counter("expert_pairs_total",
                   "(token, expert) pairs of steps that succeeded, by what the token is of", "phase",
                   {sample("prefill", total.prefill_tokens), sample("decode", total.decode_tokens)});
  families.counter("expert_activations_total", "Experts asked for, summed over dispatches", "",
                   {sample("", total.active_steps)});
}

void add_workers(const ExpertsReport& report, Families& families) {
  std::vector<Sample> pairs, bytes, answer, experts, memory, compute, pair_cost, activation_cost;
  for (size_t w = 0; w < report.workers.size(); ++w) {
    const WorkerView& view = report.workers[w].view;
    const WorkerTraffic& traffic = report.totals.traffic_w[w];
    pairs.push_back(sample(view.name, traffic.pairs));
    bytes.push_back({view.name, static_cast<double>(traffic.bytes_sent), {{"direction", "sent"}}});
    bytes.push_back({view.name, static_cast<double>(traffic.bytes_received), {{"direction", "received"}}});
    answer.push_back(seconds(view.name, traffic.answer_ns));
    int64_t held = 0;
    for (const auto& list : view.experts_l) held += static_cast<int64_t>(list.size());
    experts.push_back(sample(view.name, held));
    memory.push_back(sample(view.name, view.resident_bytes));
    if (view.own) compute.push_back(seconds(view.name, view.own->sums.compute_ns));
    if (const auto& costs = report.workers[w].costs) {
      pair_cost.push_back({view.name, costs->pair_ns * 1e-9});
      activation_cost.push_back({view.name, costs->activation_ns * 1e-9});
    }
  }
  const std::string label = "worker";
  families.gauge("worker_experts", "Experts the worker holds, over all layers", label, std::move(experts));
  families.gauge("worker_memory_bytes", "Memory of the experts the worker holds", label, std::move(memory));
  families.counter("worker_pairs_total", "Pairs sent to the worker in steps that succeeded", label,
                   std::move(pairs));
  families.counter("worker_bytes_total", "Bytes of frames to and from the worker in steps that succeeded",
                   label, std::move(bytes));
  families.counter("worker_answer_seconds_total", "From frames to their answers, summed over frames", label,
                   std::move(answer));
  families.counter("worker_compute_seconds_total",
                   "Time the worker's process ran experts, for all its routers", label, std::move(compute));
  families.gauge("worker_pair_cost_seconds", "What the worker takes for a pair, as measured", label,
                 std::move(pair_cost));
  families.gauge("worker_activation_cost_seconds", "What the worker takes to read an expert, as measured",
                 label, std::move(activation_cost));
}

void add_offload(const ExpertsReport& report, Families& families) {
  std::vector<Sample> resident, needed, waits, bytes, prefetched, evictions, errors;
  for (const ExpertsReport::Worker& worker : report.workers) {
    if (!worker.view.offload) continue;
    const std::string& name = worker.view.name;
    const OffloadSums& sums = *worker.view.offload;
    const auto labelled = [&](int64_t value, const char* key, const char* label) {
      return Sample{name, static_cast<double>(value), {{key, label}}};
    };
    resident.push_back(sample(name, sums.resident_experts));
    needed.push_back(labelled(sums.hits, "outcome", "hit"));
    needed.push_back(labelled(sums.waits, "outcome", "wait"));
    waits.push_back(seconds(name, sums.wait_ns));
    bytes.push_back(sample(name, sums.loaded_bytes));
    prefetched.push_back(labelled(sums.prefetched_used, "outcome", "used"));
    prefetched.push_back(labelled(sums.prefetched_unused, "outcome", "unused"));
    evictions.push_back(sample(name, sums.evictions));
    errors.push_back(sample(name, sums.load_errors));
  }
  if (resident.empty()) return;
  const std::string label = "worker";
  families.gauge("offload_resident_experts", "Experts in the worker's memory, of those it holds", label,
                 std::move(resident));
  families.counter("offload_experts_needed_total",
                   "Experts that runs needed: in memory when the run began, or waited for", label,
                   std::move(needed));
  families.counter("offload_wait_seconds_total", "Time that runs stood still for experts", label,
                   std::move(waits));
  families.counter("offload_loaded_bytes_total", "Bytes of experts brought into memory", label,
                   std::move(bytes));
  families.counter("offload_prefetched_total",
                   "Experts brought in by prediction: needed by the run they were for, or not", label,
                   std::move(prefetched));
  families.counter("offload_evictions_total", "Experts that made way for others", label,
                   std::move(evictions));
  families.counter("offload_load_errors_total", "Experts that could not be brought in", label,
                   std::move(errors));
}

void add_routing_trace(const RoutingTraceStatus& trace, Families& families) {
  families.gauge("routing_trace_recording", "1 while a routing trace is recorded", "",
                 {sample("", trace.state == RoutingTraceStatus::State::recording ? 1 : 0)});
  families.gauge("routing_trace_steps", "Steps of the routing trace under way, or the last one", "state",
                 {sample("written", trace.num_steps), sample("dropped", trace.num_dropped)});
}

}  // namespace

std::string metrics_text(const ServingStatus& status, const EngineCounters* engine,
                         const ExpertsReport* experts, const HttpCounters& http,
                         const BalanceStatus* balance) {
  Families families;
  add_status(status, families);
  add_http(http, families);
  if (!status.peers.empty()) add_peers(status.peers, families);
  if (balance != nullptr && balance->mode != "off") add_balance(*balance, families);
  if (engine != nullptr) {
    add_requests(*engine, families);
    add_replicas(status.replicas, families);
    add_kv_cache(status, *engine, families);
    add_finished(engine->serving, families);
    add_latencies(engine->serving, families);
    add_steps(*engine, families);
    add_exchange(*engine, families);
  }
  if (experts != nullptr) {
    add_layers(*experts, families);
    add_workers(*experts, families);
    add_offload(*experts, families);
    add_routing_trace(experts->trace, families);
  }
  return families.text();
}

}  // namespace guildhall
