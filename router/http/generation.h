// generation.h: one call for completions while the engine works on it: its sequences, their text, what to
// send next. Owned and used by one connection; destroying it cancels whatever still runs.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/engine_client.h"
#include "router/http/completions.h"
#include "router/http/errors.h"
#include "router/http/event_mailbox.h"
#include "router/http/text_accumulator.h"

namespace guildhall {

// What one choice gained since the last look.
struct ChoiceDelta {
  int index = 0;
  std::string text;
  std::vector<ScoredToken> tokens;                // when logprobs were asked for
  std::vector<int32_t> token_ids;                 // when they were asked for
  std::vector<PositionLogprobs> prompt_logprobs;  // of positions 1.. of a whole answer, when asked for
  // Ids of experts, when asked for: of the tokens, in token_ids' order, and of the prompt, once, in its first
  // choice.
  std::vector<uint16_t> routed_experts, prompt_routed_experts;
  std::optional<std::string_view> finish_reason;  // "stop", "length" or "abort", on the choice's last delta
};

struct TokenUsage {
  int64_t prompt_tokens = 0, completion_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompts (of their first choices), found in the KV cache
};

// What of a call only other calls of the same share in the KV cache.
std::string cache_salt_of(const CompletionCall& call);

class Generation {
 public:
  // Submits every sequence, or none. `wake` is called from the engine thread when pump() has something to do,
  // and never after destruction.
  static ApiResult<std::unique_ptr<Generation>> start(EngineClient& engine, const Tokenizer& tokenizer,
                                                      CompletionCall call, std::function<void()> wake);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // Time is over. With tokens, every choice that still runs ends with finish_reason "abort"; a call that has
  // none ends with `error`.
  void expire(const ApiError& error);
  bool has_tokens() const { return usage_.completion_tokens > 0; }

  // Applies the events that came. At most one delta per sequence, however many events; its index is the
  // sequence's, prompt by prompt. Those are the choices, unless more are drawn (best_of).
  std::vector<ChoiceDelta> pump();
  size_t num_sequences() const { return sequences_.size(); }
  // Of whole sequences, the choices: each prompt's likeliest per token, best first where some are left out.
  std::vector<ChoiceDelta> choices(std::vector<ChoiceDelta> sequences);
  // The last pump() found several events of one sequence: they come faster than they are sent.
  bool behind() const { return behind_; }
  bool done() const { return num_running_ == 0 || error_; }
  const std::optional<ApiError>& error() const { return error_; }
  TokenUsage usage() const { return usage_; }
  const CompletionCall& call() const { return call_; }

 private:
  struct Echo {
    std::string text;
    std::vector<int64_t> offsets;  // per prompt token, in code points
  };
  struct Sequence {
    RequestId id = 0;
    size_t prompt_idx = 0;
    bool first_choice = true;  // of its prompt
    TextAccumulator text;
    int64_t num_cached_tokens = 0;
    std::vector<PositionLogprobs> prompt_logprobs;
    std::vector<int32_t> token_ids;  // since the last delta, when asked for
    std::vector<uint16_t> routed_experts, prompt_routed_experts;
    double sum_logprob = 0;
    int64_t num_tokens = 0;
    bool echo_due = false;
    bool prompt_experts_told = false;
    bool touched = false;  // since the last pump
    bool running = true;   // in the engine
    bool closed = false;   // its finish_reason was sent
    std::optional<std::string_view> finish_reason;
  };

  Generation(EngineClient& engine, const Tokenizer& tokenizer, CompletionCall call,
             std::function<void()> wake);
  ApiResult<void> submit_all();
  EngineRequest engine_request(size_t prompt_idx, int choice_idx) const;
  Echo echo_of(const Prompt& prompt) const;
  void apply(Sequence& sequence, EngineEvent&& event);
  void apply_tokens(Sequence& sequence, EngineEvent& event);
  void end(Sequence& sequence, std::string_view finish_reason);
  std::optional<ChoiceDelta> delta_of(Sequence& sequence, int index);
  void add_echo(Sequence& sequence, ChoiceDelta& delta);
  bool scores_prompt(bool first_choice) const;
  bool lacks_scores(const Sequence& sequence) const;
  bool lacks_experts(const Sequence& sequence) const;
  bool ranks() const { return call_.best_of > call_.num_choices; }

  EngineClient& engine_;
  const Tokenizer& tokenizer_;
  const CompletionCall call_;
  std::shared_ptr<EventMailbox> mailbox_;
  std::vector<Echo> echoes_;         // per prompt, when echo is on
  std::vector<Sequence> sequences_;  // prompt_idx * best_of + choice_idx
  size_t num_running_ = 0;
  bool behind_ = false;
  TokenUsage usage_;
  std::optional<ApiError> error_;
};

}  // namespace guildhall
