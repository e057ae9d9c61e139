// metrics_test.cc: every counter stands under its documented name, and the page lists them all.
#include "router/http/metrics.h"

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using testing::HasSubstr;
using testing::Not;

EngineCounters some_counters() {
  EngineCounters c{.running = 3, .waiting = 2, .kv_pages_total = 100, .kv_pages_used = 40};
  c.prompt_tokens = 1000, c.generated_tokens = 1'234'567'890'123;
  c.preemptions_recompute = 4, c.preemptions_swap = 5;
  c.kv_slots_filled = 600, c.kv_slots_empty = 40, c.kv_swap_pages_total = 30, c.kv_swap_pages_used = 10;
  c.kv_spill_slots_total = 70, c.kv_spill_slots_used = 20, c.kv_spill_hits = 14;
  c.kv_spill_bytes_written = 8192, c.kv_spill_bytes_read = 4096, c.kv_spill_pages_written = 8;
  c.kv_spill_pages_read = 4, c.kv_spill_pages_dropped = 12, c.kv_spill_pages_damaged = 13;
  c.kv_swap_bytes_out = 2048, c.kv_swap_bytes_in = 1024, c.prefix_queries = 9, c.prefix_hits = 6;
  c.kv_pages_findable = 50, c.prefix_tokens_looked_up = 900, c.prefix_tokens_found = 800;
  c.step_ns = 2'500'000'000;
  c.steps_by_micro_batches = {7, 11};
  c.part_ns[static_cast<size_t>(StepPart::attention)] = 1'250'000'000;
  c.serving.time_to_first_token.observe(2.5);
  c.serving.inter_token_latency.observe(0.006, 2);
  c.serving.end_to_end.observe(3);
  c.serving.queue_time.observe(0.5);
  c.serving.prefill_time.observe(2);
  c.serving.decode_time.observe(0.012);
  c.serving.request_prompt_tokens.observe(100);
  c.serving.request_generated_tokens.observe(3);
  c.serving.step_tokens.observe(128);
  c.serving.step_sequences.observe(5);
  c.serving.step_seconds.observe(0.02);
  c.serving.finished = {0, 1, 1, 0};
  c.dispatches = 36, c.pairs = 512, c.bytes_sent = 4096, c.bytes_received = 8192, c.stale_frames = 1;
  return c;
}

ServingStatus some_status() {
  ServingStatus status;
  status.state = ServingState::degraded;
  status.workers.push_back({.name = "w0", .state = "ready"});
  status.workers.push_back({.name = "w1", .state = "lost", .bytes_done = 5, .bytes_total = 7});
  status.replicas = {{.name = "r0/0", .serving = true, .outstanding_tokens = 70}, {.name = "r0/1"}};
  status.kv_capacity_tokens = 1600, status.kv_dtype = "fp8";
  status.peers = {{.name = "r1", .answers = true, .num_sent = 3, .num_failed = 1}};
  return status;
}

BalanceStatus some_balance() {
  BalanceStatus status{.mode = "active"};
  status.moves.push_back({.num_experts = 5});
  status.history.push_back({.outcome = DecisionOutcome::moving});
  status.history.push_back(
      {.predicted = {.step_before_ns = 100, .step_after_ns = 75},
       .actual = GainFigures{
           .balancedness_before = 0.5, .balancedness_after = 0.75, .step_before_ns = 8, .step_after_ns = 4}});
  status.alarms.push_back({.alarm = BalanceAlarm::move_stalled});
  status.decisions[static_cast<size_t>(DecisionOutcome::moved)] = 9;
  status.added_experts = 12, status.added_bytes = 4711, status.dropped_experts = 11;
  status.failed_moves = 2, status.repaired_experts = 3, status.num_missing = 1;
  return status;
}

ExpertsReport some_experts() {
  ExpertsReport report{.shape = {.num_layers = 3, .num_experts = 4, .top_k = 2, .moe_layers = {1, 2}},
                       .window_s = 2.5};
  report.loads = empty_loads(report.shape);
  report.loads.num_steps = 50;
  report.loads.load_le[1] = {{.decode_tokens = 30}, {.prefill_tokens = 10}, {}, {}};
  report.traffic_lw.resize(6);
  report.traffic_lw[2].pairs = 30, report.traffic_lw[3].pairs = 10;
  report.workers.push_back({{.name = "w0",
                             .resident_bytes = 4096,
                             .experts_l = {{}, {0, 1}, {3}},
                             .own = WorkerView::Own{.sums = {.compute_ns = 750'000'000}},
                             .offload = OffloadSums{.hits = 21,
                                                    .waits = 22,
                                                    .wait_ns = 1'500'000'000,
                                                    .loaded_bytes = 23,
                                                    .prefetched_used = 24,
                                                    .prefetched_unused = 25,
                                                    .evictions = 26,
                                                    .load_errors = 27,
                                                    .resident_experts = 28}},
                            1,
                            StepCosts{.pair_ns = 1000, .activation_ns = 50'000}});
  report.workers.push_back({{.name = "w1"}});
  report.totals = {
      .num_steps = 70,
      .load = {.prefill_tokens = 100, .decode_tokens = 200, .active_steps = 60},
      .traffic_w = {{.pairs = 90, .bytes_sent = 900, .bytes_received = 800, .answer_ns = 250'000'000}, {}}};
  report.trace = {.state = RoutingTraceStatus::State::recording, .num_steps = 8, .num_dropped = 1};
  return report;
}

std::string some_text() {
  const EngineCounters counters = some_counters();
  HttpCounters http;
  http.count_answer("/v1/completions", 200);
  http.count_answer("/v1/completions", 200);
  http.count_answer("/v1/completions", 429);
  http.num_connections = 6;
  const ExpertsReport experts = some_experts();
  const BalanceStatus balance = some_balance();
  return metrics_text(some_status(), &counters, &experts, http, &balance);
}

TEST(Metrics, SayWhatTheEngineCounted) {
  const std::string text = some_text();
  for (const char* line : {"guildhall_ready 0\n",
                           "guildhall_worker_up{worker=\"w0\"} 1\n",
                           "guildhall_worker_up{worker=\"w1\"} 0\n",
                           "guildhall_requests{state=\"running\"} 3\n",
                           "guildhall_requests{state=\"waiting\"} 2\n",
                           "guildhall_prompt_tokens_total 1000\n",
                           "guildhall_generated_tokens_total 1234567890123\n",
                           "guildhall_preemptions_total{kind=\"recompute\"} 4\n",
                           "guildhall_preemptions_total{kind=\"swap\"} 5\n",
                           "guildhall_kv_slots{state=\"filled\"} 600\n",
                           "guildhall_kv_slots{state=\"empty\"} 40\n",
                           "guildhall_kv_swap_pages{state=\"used\"} 10\n",
                           "guildhall_kv_swap_pages{state=\"free\"} 20\n",
                           "guildhall_kv_swap_bytes_total{direction=\"out\"} 2048\n",
                           "guildhall_kv_swap_bytes_total{direction=\"in\"} 1024\n",
                           "guildhall_kv_spill_pages{state=\"used\"} 20\n",
                           "guildhall_kv_spill_pages{state=\"free\"} 50\n",
                           "guildhall_kv_spill_bytes_total{direction=\"written\"} 8192\n",
                           "guildhall_kv_spill_bytes_total{direction=\"read\"} 4096\n",
                           "guildhall_kv_spill_pages_total{outcome=\"written\"} 8\n",
                           "guildhall_kv_spill_pages_total{outcome=\"read\"} 4\n",
                           "guildhall_kv_spill_pages_total{outcome=\"dropped\"} 12\n",
                           "guildhall_kv_spill_pages_total{outcome=\"damaged\"} 13\n",
                           "guildhall_kv_spill_hits_total 14\n",
                           "guildhall_prefix_queries_total 9\n",
                           "guildhall_prefix_hits_total 6\n",
                           "guildhall_kv_capacity_tokens{dtype=\"fp8\"} 1600\n",
                           "guildhall_kv_pages{state=\"used\"} 40\n",
                           "guildhall_kv_pages{state=\"free\"} 60\n",
                           "guildhall_kv_pages_findable 50\n",
                           "guildhall_prefix_tokens_looked_up_total 900\n",
                           "guildhall_prefix_tokens_found_total 800\n",
                           "guildhall_steps_total{micro_batches=\"1\"} 7\n",
                           "guildhall_steps_total{micro_batches=\"2\"} 11\n",
                           "guildhall_step_seconds_total 2.5\n",
                           "guildhall_step_part_seconds_total{part=\"attention\"} 1.25\n",
                           "guildhall_exchange_bytes_total{direction=\"sent\"} 4096\n",
                           "guildhall_exchange_bytes_total{direction=\"received\"} 8192\n",
                           "guildhall_exchange_rounds_total 36\n",
                           "guildhall_exchange_pairs_total 512\n",
                           "guildhall_exchange_stale_frames_total 1\n",
                           "# TYPE guildhall_steps_total counter\n",
                           "# TYPE guildhall_requests gauge\n",
                           "guildhall_kv_usage_ratio 0.4\n",
                           "guildhall_load_bytes{process=\"w1\",state=\"done\"} 5\n",
                           "guildhall_load_bytes{process=\"w1\",state=\"wanted\"} 7\n",
                           "guildhall_http_requests_total{endpoint=\"/v1/completions\",status=\"200\"} 2\n",
                           "guildhall_http_requests_total{endpoint=\"/v1/completions\",status=\"429\"} 1\n",
                           "guildhall_http_connections 6\n",
                           "guildhall_replica_up{replica=\"r0/1\"} 0\n",
                           "guildhall_replica_outstanding_tokens{replica=\"r0/0\"} 70\n",
                           "guildhall_peer_requests_total{peer=\"r1\"} 3\n",
                           "guildhall_requests_finished_total{reason=\"length\"} 1\n",
                           "guildhall_requests_finished_total{reason=\"cancelled\"} 1\n",
                           "guildhall_requests_finished_total{reason=\"stop\"} 0\n",
                           "guildhall_expert_window_steps 50\n",
                           "guildhall_expert_window_seconds 2.5\n",
                           "guildhall_expert_layer_balancedness{layer=\"1\"} 0.6666666666666666\n",
                           "guildhall_expert_layer_balancedness{layer=\"2\"} 1\n",
                           "guildhall_expert_layer_hottest_ratio{layer=\"1\"} 3\n",
                           "guildhall_expert_pairs_total{phase=\"prefill\"} 100\n",
                           "guildhall_expert_pairs_total{phase=\"decode\"} 200\n",
                           "guildhall_expert_activations_total 60\n",
                           "guildhall_worker_experts{worker=\"w0\"} 3\n",
                           "guildhall_worker_memory_bytes{worker=\"w0\"} 4096\n",
                           "guildhall_worker_pairs_total{worker=\"w0\"} 90\n",
                           "guildhall_worker_bytes_total{worker=\"w0\",direction=\"received\"} 800\n",
                           "guildhall_worker_answer_seconds_total{worker=\"w0\"} 0.25\n",
                           "guildhall_worker_compute_seconds_total{worker=\"w0\"} 0.75\n",
                           "guildhall_offload_resident_experts{worker=\"w0\"} 28\n",
                           "guildhall_offload_experts_needed_total{worker=\"w0\",outcome=\"hit\"} 21\n",
                           "guildhall_offload_experts_needed_total{worker=\"w0\",outcome=\"wait\"} 22\n",
                           "guildhall_offload_wait_seconds_total{worker=\"w0\"} 1.5\n",
                           "guildhall_offload_loaded_bytes_total{worker=\"w0\"} 23\n",
                           "guildhall_offload_prefetched_total{worker=\"w0\",outcome=\"used\"} 24\n",
                           "guildhall_offload_prefetched_total{worker=\"w0\",outcome=\"unused\"} 25\n",
                           "guildhall_offload_evictions_total{worker=\"w0\"} 26\n",
                           "guildhall_offload_load_errors_total{worker=\"w0\"} 27\n",
                           "guildhall_routing_trace_recording 1\n",
                           "guildhall_routing_trace_steps{state=\"dropped\"} 1\n"})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST(Metrics, HistogramsAreInSecondsAndCumulative) {
  const std::string text = some_text();
  for (const char* line : {"# TYPE guildhall_time_to_first_token_seconds histogram\n",
                           "guildhall_time_to_first_token_seconds_count 1\n",
                           "guildhall_time_to_first_token_seconds_sum 2.5\n",
                           "guildhall_time_to_first_token_seconds_bucket{le=\"1\"} 0\n",
                           "guildhall_time_to_first_token_seconds_bucket{le=\"2.5\"} 1\n",  // inclusive
                           "guildhall_time_to_first_token_seconds_bucket{le=\"+Inf\"} 1\n",
                           "guildhall_request_queue_time_seconds_sum 0.5\n",
                           "guildhall_request_prefill_time_seconds_sum 2\n",
                           "guildhall_inter_token_latency_seconds_bucket{le=\"0.005\"} 0\n",
                           "guildhall_inter_token_latency_seconds_bucket{le=\"0.0075\"} 2\n",
                           "guildhall_inter_token_latency_seconds_count 2\n",
                           "guildhall_request_decode_time_seconds_sum 0.012\n",
                           "guildhall_e2e_request_latency_seconds_sum 3\n",
                           "guildhall_e2e_request_latency_seconds_count 1\n",
                           "guildhall_request_prompt_tokens_sum 100\n",
                           "guildhall_request_generated_tokens_sum 3\n",
                           "guildhall_step_tokens_bucket{le=\"128\"} 1\n",
                           "guildhall_step_sequences_bucket{le=\"4\"} 0\n",
                           "guildhall_step_sequences_sum 5\n",
                           "guildhall_step_duration_seconds_sum 0.02\n"})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST(Metrics, SayWhatBalancingDoes) {
  const std::string text = some_text();
  for (const char* line :
       {"guildhall_balance_alarm{alarm=\"move_stalled\"} 1\n",
        "guildhall_balance_alarm{alarm=\"no_loads\"} 0\n",
        "guildhall_balance_decisions_total{outcome=\"moved\"} 9\n",
        "guildhall_balance_moved_experts_total{kind=\"add\"} 12\n",
        "guildhall_balance_moved_experts_total{kind=\"drop\"} 11\n",
        "guildhall_balance_moved_bytes_total 4711\n", "guildhall_balance_repaired_experts_total 3\n",
        "guildhall_balance_failed_moves_total 2\n", "guildhall_balance_missing_experts 1\n",
        "guildhall_balance_experts_under_way 5\n", "guildhall_balance_gain_ratio{kind=\"predicted\"} 0.25\n",
        "guildhall_balance_gain_ratio{kind=\"actual\"} 0.5\n",
        "guildhall_balance_last_balancedness{when=\"after\"} 0.75\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, Not(HasSubstr("outcome=\"moving\"")));
}

TEST(Metrics, OfBalancingThatIsOffTellNothing) {
  const BalanceStatus off;
  EXPECT_THAT(metrics_text(some_status(), nullptr, nullptr, HttpCounters{}, &off),
              Not(HasSubstr("guildhall_balance")));
}

// Thousands of experts, and as many workers unknown to us, would be thousands of series.
TEST(Metrics, NothingIsToldByExpert) {
  const std::string text = some_text();
  EXPECT_THAT(text, Not(HasSubstr("expert=\"")));
  EXPECT_THAT(text, Not(HasSubstr("guildhall_worker_compute_seconds_total{worker=\"w1\"}")))
      << "it has not said";
}

TEST(Metrics, WithoutAnEngineTellReadinessAndWorkersOnly) {
  const std::string text = metrics_text(some_status(), nullptr, nullptr, HttpCounters{});
  EXPECT_THAT(text, HasSubstr("guildhall_worker_up{worker=\"w1\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("guildhall_steps_total")));
}

TEST(Metrics, ThePageListsThemAll) {
  const std::string text = some_text();
  std::stringstream page;
  page << std::ifstream(GUILDHALL_SOURCE_DIR "/docs/metrics.md").rdbuf();
  const std::string page_text = page.str();
  std::map<std::string, std::set<std::string>> told, listed;  // "name type" -> its labels
  // A family's type and its first sample; the page's row, whose labels stand before a colon or alone.
  const std::regex family("# TYPE (\\S+) (\\S+)\n(?:guildhall_\\w+)(?:\\{([^}]*)\\})?"), label("(\\w+)=");
  const std::regex row("\\| `(guildhall_\\S+)` \\| (\\w+) \\| ([^|]*)\\|"), key("(?:^|; )`(\\w+)`");
  const std::sregex_iterator end;
  const auto keys = [&](const std::string& labels, const std::regex& each) {
    std::set<std::string> keys;
    for (std::sregex_iterator it(labels.begin(), labels.end(), each); it != end; ++it)
      if ((*it)[1] != "le") keys.insert((*it)[1]);
    return keys;
  };
  for (std::sregex_iterator it(text.begin(), text.end(), family); it != end; ++it)
    told[(*it)[1].str() + " " + (*it)[2].str()] = keys((*it)[3], label);
  for (std::sregex_iterator it(page_text.begin(), page_text.end(), row); it != end; ++it)
    listed[(*it)[1].str() + " " + (*it)[2].str()] = keys((*it)[3], key);
  EXPECT_EQ(told, listed);
}

using MetricsEndpoint = HttpServerTest;

TEST_F(MetricsEndpoint, AnswersWhileLoadingAndAfter) {
  start();
  status_.set(some_status());
  RawClient client(port());
  RawReply early = client.get("/metrics");
  EXPECT_EQ(early.status, 200);
  EXPECT_EQ(early.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(early.body, Not(HasSubstr("guildhall_steps_total")));

  engine_.reported = some_counters();
  server_->attach(engine_, tiny_tokenizer());
  EXPECT_THAT(client.get("/metrics").body, HasSubstr("guildhall_steps_total{micro_batches=\"2\"} 11\n"));
  EXPECT_EQ(client.post("/metrics", "{}").status, 405);
}

}  // namespace
}  // namespace guildhall
