// logit_rules.h: what a request asks of its tokens beyond temperature and the like, and what that comes to
// for each next token: edits of logits (kernels/logit_edits.h), kept up token by token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/logit_edits.h"

namespace guildhall {

struct LogitBias {
  int32_t id = 0;
  float bias = 0;
};

struct LogitRules {
  float repetition_penalty = 1;  // above 0; for tokens of prompt and answer alike
  // OpenAI's: subtracted from tokens of the answer, once, and for each time they occurred.
  float presence_penalty = 0, frequency_penalty = 0;
  std::vector<LogitBias> bias;             // ids once each
  std::vector<int32_t> allowed_token_ids;  // empty: all
  // The first min_tokens of the answer are none of held_token_ids; ids outside the vocabulary do not matter.
  int32_t min_tokens = 0;
  std::vector<int32_t> held_token_ids;

  bool any() const;
};

// invalid_argument, naming the field, when the rules cannot be followed.
Result<void> check_logit_rules(const LogitRules& rules, int32_t vocab_size);

// One sequence's. add() takes time in distinct tokens, never in the length of the sequence.
class LogitEdits {
 public:
  LogitEdits(const LogitRules& rules, std::span<const int32_t> prompt_ids, int32_t max_tokens,
             int32_t vocab_size);

  void add(int32_t token);  // it was generated

  // For the next token: ids ascending, each once.
  std::span<const LogitEdit> edits() const { return edit_e_; }
  // A mask of mask_words(V) words; empty: all are allowed.
  std::span<const uint32_t> allowed_w() const { return allowed_w_; }
  bool any() const { return !edit_e_.empty() || !allowed_w_.empty(); }

 private:
  size_t find_or_insert(int32_t id);
  void release_held();

  const float repetition_, presence_, frequency_;
  std::vector<LogitEdit> edit_e_;
  std::vector<int32_t> count_e_;  // beside edit_e_: how often it was generated
  std::vector<uint32_t> allowed_w_;
  struct Held {
    int32_t id;
    float bias_after;
  };
  std::vector<Held> held_;
  int64_t num_held_for_;  // tokens that held_ is still held back for
};

}  // namespace guildhall
