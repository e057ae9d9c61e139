#include "router/http/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <sstream>

namespace guildhall {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Sample {
  std::string label_value;  // empty: no label
  double value;
};

class Families {
 public:
  void gauge(std::string name, std::string help, std::string label, std::vector<Sample> samples) {
    add(MetricType::Gauge, std::move(name), std::move(help), label, samples);
  }
  void counter(std::string name, std::string help, std::string label, std::vector<Sample> samples) {
    add(MetricType::Counter, std::move(name), std::move(help), label, samples);
  }
  std::string text() const {
    std::ostringstream out;
    prometheus::TextSerializer().Serialize(out, families_);
    return out.str();
  }

 private:
  void add(MetricType type, std::string name, std::string help, const std::string& label,
           const std::vector<Sample>& samples) {
    MetricFamily family{"guildhall_" + std::move(name), std::move(help), type, {}};
    for (const Sample& sample : samples) {
      ClientMetric metric;
      if (!label.empty()) metric.label.push_back({label, sample.label_value});
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
}

void add_requests(const EngineCounters& c, Families& families) {
  families.gauge("requests", "Sequences in the engine", "state",
                 {sample("running", c.running), sample("waiting", c.waiting)});
  families.counter("prompt_tokens_total", "Prompt tokens computed", "", {sample("", c.prompt_tokens)});
  families.counter("generated_tokens_total", "Tokens generated", "", {sample("", c.generated_tokens)});
  families.counter("preemptions_total", "Sequences put back to be recomputed", "",
                   {sample("", c.preemptions)});
  families.gauge("kv_pages", "Pages of the KV cache", "state",
                 {sample("used", c.kv_pages_used), sample("free", c.kv_pages_total - c.kv_pages_used)});
  families.gauge("kv_pages_findable", "Pages, used or free, that later prompts may begin with", "",
                 {sample("", c.kv_pages_findable)});
  families.counter("prefix_tokens_looked_up_total", "Prompt tokens looked up in the KV cache", "",
                   {sample("", c.prefix_tokens_looked_up)});
  families.counter("prefix_tokens_found_total", "Prompt tokens found in the KV cache", "",
                   {sample("", c.prefix_tokens_found)});
}

void add_steps(const EngineCounters& c, Families& families) {
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

}  // namespace

std::string metrics_text(const ServingStatus& status, const EngineCounters* engine) {
  Families families;
  add_status(status, families);
  if (engine != nullptr) {
    add_requests(*engine, families);
    add_steps(*engine, families);
    add_exchange(*engine, families);
  }
  return families.text();
}

}  // namespace guildhall
