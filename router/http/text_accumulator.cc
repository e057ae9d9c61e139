#include "router/http/text_accumulator.h"

#include <algorithm>

namespace guildhall {

int64_t count_chars(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

TextAccumulator::TextAccumulator(const Tokenizer& tokenizer, Options options)
    : decoder_(tokenizer, /*skip_special_tokens=*/true),
      options_(std::move(options)),
      num_chars_(options_.first_offset) {}

void TextAccumulator::push(int32_t id, std::optional<PositionLogprobs> logprobs) {
  if (stopped_ || finished_) return;
  keep_token(id, std::move(logprobs));
  ++num_tokens_;
  append(decoder_.push(id));
}

void TextAccumulator::push_hidden(int32_t id, std::optional<PositionLogprobs> logprobs) {
  if (stopped_ || finished_) return;
  keep_token(id, std::move(logprobs));
}

void TextAccumulator::finish() {
  if (stopped_ || finished_) return;
  append(decoder_.finish());
  finished_ = true;
}

void TextAccumulator::keep_token(int32_t id, std::optional<PositionLogprobs> logprobs) {
  if (!options_.keep_tokens) return;
  tokens_.push_back({{id, std::move(logprobs), num_chars_}, static_cast<int64_t>(pending_.size())});
}

// The stop string that is complete first wins (ties: the longest), so the cut is the same whether the text
// came byte by byte or at once.
void TextAccumulator::append(const std::string& text) {
  if (text.empty()) return;
  size_t old_size = pending_.size();
  pending_ += text;
  num_chars_ += count_chars(text);
  if (num_tokens_ <= options_.min_tokens) return;

  size_t best_end = std::string::npos, cut = 0;
  for (const std::string& stop : options_.stops) {
    size_t from = old_size - std::min(old_size, stop.size() - 1);  // earlier text was searched before
    size_t at = pending_.find(stop, from);
    if (at == std::string::npos) continue;
    size_t end = at + stop.size();
    if (end < best_end || (end == best_end && at < cut)) best_end = end, cut = at;
  }
  if (best_end == std::string::npos) return;
  if (options_.include_stop) cut = best_end;
  stopped_ = true;
  pending_.resize(cut);
  while (!tokens_.empty() && tokens_.back().start >= static_cast<int64_t>(cut)) tokens_.pop_back();
}

// The longest end of pending_ that some stop string begins with.
size_t TextAccumulator::held_back_bytes() const {
  size_t held = 0;
  for (const std::string& stop : options_.stops) {
    std::string_view prefix(stop);
    for (size_t length = std::min(stop.size() - 1, pending_.size()); length > held; --length)
      if (pending_.ends_with(prefix.substr(0, length))) held = length;
  }
  return held;
}

TextDelta TextAccumulator::take() {
  bool final = stopped_ || finished_;
  size_t safe = final ? pending_.size() : pending_.size() - held_back_bytes();
  size_t num_tokens = 0;
  TextDelta delta;
  for (; num_tokens < tokens_.size(); ++num_tokens) {
    int64_t end = num_tokens + 1 < tokens_.size() ? tokens_[num_tokens + 1].start
                                                  : static_cast<int64_t>(pending_.size());
    // A token without text of its own (half a character) waits for what follows it: a stop may still drop it.
    bool shown = end <= static_cast<int64_t>(safe) && tokens_[num_tokens].start < static_cast<int64_t>(safe);
    if (!final && !shown) break;
    delta.tokens.push_back(std::move(tokens_[num_tokens].token));
  }
  tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<ptrdiff_t>(num_tokens));
  for (PendingToken& token : tokens_) token.start -= static_cast<int64_t>(safe);
  delta.text = pending_.substr(0, safe);
  pending_.erase(0, safe);
  return delta;
}

}  // namespace guildhall
