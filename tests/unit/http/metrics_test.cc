// metrics_test.cc: every counter stands under its documented name, and the page lists them all.
#include "router/http/metrics.h"

#include <fstream>
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
  c.prompt_tokens = 1000, c.generated_tokens = 1'234'567'890'123, c.preemptions = 4;
  c.kv_pages_findable = 50, c.prefix_tokens_looked_up = 900, c.prefix_tokens_found = 800;
  c.step_ns = 2'500'000'000;
  c.steps_by_micro_batches = {7, 11};
  c.part_ns[static_cast<size_t>(StepPart::attention)] = 1'250'000'000;
  c.dispatches = 36, c.pairs = 512, c.bytes_sent = 4096, c.bytes_received = 8192, c.stale_frames = 1;
  return c;
}

ServingStatus some_status() {
  ServingStatus status;
  status.state = ServingState::degraded;
  status.workers.push_back({.name = "w0", .state = "ready"});
  status.workers.push_back({.name = "w1", .state = "lost"});
  return status;
}

TEST(Metrics, SayWhatTheEngineCounted) {
  const EngineCounters counters = some_counters();
  const std::string text = metrics_text(some_status(), &counters);
  for (const char* line : {"guildhall_ready 0\n",
                           "guildhall_worker_up{worker=\"w0\"} 1\n",
                           "guildhall_worker_up{worker=\"w1\"} 0\n",
                           "guildhall_requests{state=\"running\"} 3\n",
                           "guildhall_requests{state=\"waiting\"} 2\n",
                           "guildhall_prompt_tokens_total 1000\n",
                           "guildhall_generated_tokens_total 1234567890123\n",
                           "guildhall_preemptions_total 4\n",
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
                           "# TYPE guildhall_requests gauge\n"})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST(Metrics, WithoutAnEngineTellReadinessAndWorkersOnly) {
  const std::string text = metrics_text(some_status(), nullptr);
  EXPECT_THAT(text, HasSubstr("guildhall_worker_up{worker=\"w1\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("guildhall_steps_total")));
}

TEST(Metrics, ThePageListsThemAll) {
  const EngineCounters counters;
  const std::string text = metrics_text(some_status(), &counters);
  std::stringstream page;
  page << std::ifstream(GUILDHALL_SOURCE_DIR "/docs/metrics.md").rdbuf();
  const std::string page_text = page.str();
  std::set<std::string> told, listed;
  const std::regex type("# TYPE (\\S+) (\\S+)\n"), row("\\| `(guildhall_\\S+)` \\| (\\w+) \\|");
  for (std::sregex_iterator it(text.begin(), text.end(), type), end; it != end; ++it)
    told.insert((*it)[1].str() + " " + (*it)[2].str());
  for (std::sregex_iterator it(page_text.begin(), page_text.end(), row), end; it != end; ++it)
    listed.insert((*it)[1].str() + " " + (*it)[2].str());
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
