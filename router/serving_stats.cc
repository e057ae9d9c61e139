#include "router/serving_stats.h"

namespace guildhall {
namespace {

double seconds(int64_t from_ns, int64_t to_ns) { return static_cast<double>(to_ns - from_ns) * 1e-9; }

}  // namespace

void ServingStats::record_step(int64_t num_tokens, int64_t num_sequences, int64_t step_ns) {
  step_tokens.observe(static_cast<double>(num_tokens));
  step_sequences.observe(static_cast<double>(num_sequences));
  step_seconds.observe(seconds(0, step_ns));
}

void ServingStats::record_start(RequestTimes& times, int64_t now_ns) {
  if (times.started_ns != 0) return;
  times.started_ns = now_ns;
  queue_time.observe(seconds(times.submitted_ns, now_ns));
}

void ServingStats::record_tokens(RequestTimes& times, int64_t num_tokens, int64_t now_ns) {
  if (times.first_token_ns == 0) {
    times.first_token_ns = times.last_token_ns = now_ns;
    time_to_first_token.observe(seconds(times.submitted_ns, now_ns));
    prefill_time.observe(seconds(times.started_ns, now_ns));
    if (--num_tokens == 0) return;
  }
  const double each = seconds(times.last_token_ns, now_ns) / static_cast<double>(num_tokens);
  inter_token_latency.observe(each, num_tokens);
  times.last_token_ns = now_ns;
}

void ServingStats::record_finish(const RequestTimes& times, FinishReason reason, int64_t prompt_tokens,
                                 int64_t generated_tokens, int64_t now_ns) {
  ++finished[static_cast<size_t>(reason)];
  if (reason != FinishReason::stop && reason != FinishReason::length) return;
  end_to_end.observe(seconds(times.submitted_ns, now_ns));
  if (times.first_token_ns != 0) decode_time.observe(seconds(times.first_token_ns, times.last_token_ns));
  request_prompt_tokens.observe(static_cast<double>(prompt_tokens));
  request_generated_tokens.observe(static_cast<double>(generated_tokens));
}

void ServingStats::add(const ServingStats& other) {
  for (const auto histogram :
       {&ServingStats::time_to_first_token, &ServingStats::inter_token_latency, &ServingStats::end_to_end,
        &ServingStats::queue_time, &ServingStats::prefill_time, &ServingStats::decode_time,
        &ServingStats::request_prompt_tokens, &ServingStats::request_generated_tokens,
        &ServingStats::step_tokens, &ServingStats::step_sequences, &ServingStats::step_seconds})
    (this->*histogram).add(other.*histogram);
  for (size_t i = 0; i < finished.size(); ++i) finished[i] += other.finished[i];
}

}  // namespace guildhall
