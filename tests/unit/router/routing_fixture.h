// routing_fixture.h: steps of a small model's gate, as the engine and the dispatcher count them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "router/routing_recorder.h"

namespace guildhall {

// Of four layers the second and the third have eight experts, two for each token.
inline TraceHeader routing_fixture_shape() {
  return {.model = "m",
          .num_layers = 4,
          .num_experts = 8,
          .top_k = 2,
          .num_groups = 1,
          .expert_bytes = 1000,
          .expert_params = 500,
          .moe_layers = {1, 2}};
}

// The chunks of a step.
class Chunks {
 public:
  Chunks& prompt(int64_t num_tokens) {
    add(num_tokens + 3, 0, num_tokens);
    return *this;
  }
  // Of a text that was preempted and is computed again.
  Chunks& recompute(int64_t num_tokens) {
    add(1, num_tokens, num_tokens);
    return *this;
  }
  Chunks& decode() {
    Sequence& s = add(5, 2, 1);
    s.num_computed = 6;
    return *this;
  }
  std::span<const ScheduledChunk> list() const { return chunks_; }

 private:
  Sequence& add(int64_t prompt, int64_t generated, int64_t num_tokens) {
    Sequence& s = sequences_.emplace_back();
    s.request.prompt_ids.resize(static_cast<size_t>(prompt));
    s.tokens.resize(static_cast<size_t>(prompt + generated));
    chunks_.push_back({.sequence = &s, .num_tokens = num_tokens});
    return s;
  }
  std::deque<Sequence> sequences_;
  std::vector<ScheduledChunk> chunks_;
};

// Choices [T,2].
class ChoiceRows {
 public:
  ChoiceRows(std::initializer_list<int32_t> expert_tk) : expert_tk_(expert_tk) {}
  operator View2<const int32_t>() const {
    return {expert_tk_.data(), static_cast<int64_t>(expert_tk_.size()) / 2, 2};
  }

 private:
  std::vector<int32_t> expert_tk_;
};

inline RoutingOptions routing_fixture_options(int64_t window_steps = 1000) {
  return {.shape = routing_fixture_shape(), .num_workers = 2, .window_steps = window_steps};
}

// A step of one decoded token that goes to experts 0 and 1 of layer 1, and 2 and 3 of layer 2.
inline void commit_decode(StepRouting& step) {
  const Chunks chunks = std::move(Chunks().decode());
  step.begin(chunks.list());
  step.count(1, 0, ChoiceRows{0, 1});
  step.count(2, 0, ChoiceRows{2, 3});
  step.commit();
}

}  // namespace guildhall
