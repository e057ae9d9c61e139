// serving_stats.h: what users wait for, as histograms: how long requests queue, read and write, and how large
// steps are. Owner: the engine thread, which publishes a copy after each step.
#pragma once

#include <array>
#include <cstdint>

#include "router/histogram.h"

namespace guildhall {

enum class FinishReason { stop, length, cancelled, error };
inline constexpr std::array kFinishReasonNames =
    std::to_array<const char*>({"stop", "length", "cancelled", "error"});
inline constexpr size_t kNumFinishReasons = kFinishReasonNames.size();

// When things happened to one request, by now_ns(). 0: not yet.
struct RequestTimes {
  int64_t submitted_ns = 0;    // it came to the engine
  int64_t started_ns = 0;      // the first step that it was part of began
  int64_t first_token_ns = 0;  // its first token was reported
  int64_t last_token_ns = 0;   // and its latest
};

// The buckets of seconds, tokens and sequences.
inline constexpr std::array kLatencyBounds =
    std::to_array<double>({0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,  1,
                           2.5,   5,      10,    25,   50,    100,  250, 500,  1000, 2500});
// From one token to the next, and of a step: finer, as targets lie here.
inline constexpr std::array kStepBounds =
    std::to_array<double>({0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03,
                           0.04,   0.05,    0.075,  0.1,   0.15,   0.25,  0.5,    1,    2.5,   10});
inline constexpr std::array kTokenBounds = std::to_array<double>(
    {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072});
inline constexpr std::array kSequenceBounds =
    std::to_array<double>({1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024});

struct ServingStats {
  void record_step(int64_t num_tokens, int64_t num_sequences, int64_t step_ns);
  // The request is part of a step that begins now. Only its first one counts.
  void record_start(RequestTimes& times, int64_t now_ns);
  // `num_tokens` of its tokens, at least one, are reported now.
  void record_tokens(RequestTimes& times, int64_t num_tokens, int64_t now_ns);
  // Durations and lengths are those of requests that got what they asked for: stop and length.
  void record_finish(const RequestTimes& times, FinishReason reason, int64_t prompt_tokens,
                     int64_t generated_tokens, int64_t now_ns);

  void add(const ServingStats& other);  // of another engine

  // Seconds, of requests. Time to first token: from submitted to first token; inter-token: between one
  // token of a request and its next; queue: submitted to started; prefill: started to first token; decode:
  // first token to last; end to end: submitted to finished.
  Histogram time_to_first_token{kLatencyBounds}, inter_token_latency{kStepBounds};
  Histogram end_to_end{kLatencyBounds}, queue_time{kLatencyBounds};
  Histogram prefill_time{kLatencyBounds}, decode_time{kLatencyBounds};
  Histogram request_prompt_tokens{kTokenBounds}, request_generated_tokens{kTokenBounds};
  // Of steps that succeeded.
  Histogram step_tokens{kTokenBounds}, step_sequences{kSequenceBounds}, step_seconds{kStepBounds};
  std::array<int64_t, kNumFinishReasons> finished{};  // requests by FinishReason
};

}  // namespace guildhall
