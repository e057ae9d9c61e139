// text_accumulator.h: one sequence's tokens become text that may be shown: whole UTF-8 characters, nothing of
// a stop string, nothing that may yet turn out to be the start of one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"
#include "router/engine_client.h"

namespace guildhall {

// One token as the `logprobs` lists report it.
struct ScoredToken {
  int32_t id = 0;
  std::optional<PositionLogprobs> logprobs;  // absent: the first prompt token, which nothing predicts
  int64_t text_offset = 0;                   // code points from the start of the choice's text
};

struct TextDelta {
  std::string text;
  std::vector<ScoredToken> tokens;
};

// Single-threaded. The result does not depend on how the text is cut into tokens or how often take() is
// called.
class TextAccumulator {
 public:
  struct Options {
    std::vector<std::string> stops;  // valid UTF-8, not empty
    bool keep_tokens = false;        // collect ScoredTokens as well
    int64_t first_offset = 0;        // code points of echoed prompt before this text
    bool include_stop = false;       // the text ends behind the stop string, not before it
    int64_t min_tokens = 0;          // a stop string that ends within as many tokens is none
  };
  TextAccumulator(const Tokenizer& tokenizer, Options options);

  // Once a stop string is complete, further tokens are ignored.
  void push(int32_t id, std::optional<PositionLogprobs> logprobs);
  // A stop token: listed with the tokens, but not part of the text.
  void push_hidden(int32_t id, std::optional<PositionLogprobs> logprobs);
  // No more tokens: what was held back becomes text.
  void finish();

  bool stopped() const { return stopped_; }  // a stop string was completed; the text ends at it
  TextDelta take();                          // what became safe to show since the last take

 private:
  struct PendingToken {
    ScoredToken token;
    int64_t start;  // byte in pending_; negative when its first bytes were taken already
  };
  void keep_token(int32_t id, std::optional<PositionLogprobs> logprobs);
  void append(const std::string& text);
  size_t held_back_bytes() const;

  StreamDecoder decoder_;
  Options options_;
  std::string pending_;  // decoded, not yet taken
  std::vector<PendingToken> tokens_;
  int64_t num_chars_;       // code points decoded so far, with first_offset
  int64_t num_tokens_ = 0;  // pushed
  bool stopped_ = false;
  bool finished_ = false;
};

// Code points in valid UTF-8.
int64_t count_chars(std::string_view text);

}  // namespace guildhall
