#include "router/logit_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace guildhall {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
// Room for tokens that a sequence may yet come to; longer answers move their lists now and then.
constexpr size_t kExpectedTokens = 1024;

Status outside(std::string_view field, int32_t id, int32_t vocab_size) {
  return {Code::invalid_argument, fmt::format("{}: token id {} is outside [0, {})", field, id, vocab_size)};
}

bool contains(std::span<const int32_t> ids, int32_t id) { return std::ranges::find(ids, id) != ids.end(); }

}  // namespace

bool LogitRules::any() const {
  return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0 || !bias.empty() ||
         !allowed_token_ids.empty() || (min_tokens > 0 && !held_token_ids.empty());
}

Result<void> check_logit_rules(const LogitRules& rules, int32_t vocab_size) {
  const auto fits = [&](int32_t id) { return id >= 0 && id < vocab_size; };
  if (!(rules.repetition_penalty > 0))
    return Status{Code::invalid_argument, "repetition_penalty must be above 0"};
  for (const LogitBias& bias : rules.bias)
    if (!fits(bias.id)) return outside("logit_bias", bias.id, vocab_size);
  for (const int32_t id : rules.allowed_token_ids)
    if (!fits(id)) return outside("allowed_token_ids", id, vocab_size);
  const auto held = [&](int32_t id) { return contains(rules.held_token_ids, id); };
  if (rules.min_tokens > 0 && !rules.allowed_token_ids.empty() &&
      std::ranges::all_of(rules.allowed_token_ids, held))
    return Status{Code::invalid_argument,
                  "allowed_token_ids are all stop tokens, of which min_tokens allows none; allow another, or "
                  "send min_tokens 0"};
  return {};
}

LogitEdits::LogitEdits(const LogitRules& rules, std::span<const int32_t> prompt_ids, int32_t max_tokens,
                       int32_t vocab_size)
    : repetition_(rules.repetition_penalty),
      presence_(rules.presence_penalty),
      frequency_(rules.frequency_penalty),
      num_held_for_(rules.min_tokens) {
  std::vector<int32_t> ids;
  if (repetition_ != 1) ids.assign(prompt_ids.begin(), prompt_ids.end());
  for (const LogitBias& bias : rules.bias) ids.push_back(bias.id);
  if (num_held_for_ > 0)
    for (const int32_t id : rules.held_token_ids)
      if (id >= 0 && id < vocab_size) held_.push_back({id, 0}), ids.push_back(id);
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());

  const size_t room = ids.size() + std::min(kExpectedTokens, static_cast<size_t>(std::max(max_tokens, 0)));
  edit_e_.reserve(room), count_e_.reserve(room);
  for (const int32_t id : ids) edit_e_.push_back({.id = id});
  count_e_.resize(ids.size());
  if (repetition_ != 1)
    for (const int32_t id : prompt_ids) edit_e_[find_or_insert(id)].repetition = repetition_;
  for (const LogitBias& bias : rules.bias) edit_e_[find_or_insert(bias.id)].bias = bias.bias;
  for (Held& held : held_) held.bias_after = edit_e_[find_or_insert(held.id)].bias;
  for (const Held& held : held_) edit_e_[find_or_insert(held.id)].bias = kNever;

  if (rules.allowed_token_ids.empty()) return;
  allowed_w_.resize(static_cast<size_t>(mask_words(vocab_size)));
  for (const int32_t id : rules.allowed_token_ids)
    allowed_w_[static_cast<size_t>(id / kMaskBits)] |= uint32_t{1} << (id % kMaskBits);
}

void LogitEdits::add(int32_t token) {
  if (num_held_for_ > 0 && --num_held_for_ == 0) release_held();
  if (repetition_ == 1 && presence_ == 0 && frequency_ == 0) return;
  const size_t e = find_or_insert(token);
  edit_e_[e].repetition = repetition_;
  edit_e_[e].penalty = presence_ + frequency_ * static_cast<float>(++count_e_[e]);
}

void LogitEdits::release_held() {
  for (const Held& held : held_) edit_e_[find_or_insert(held.id)].bias = held.bias_after;
}

size_t LogitEdits::find_or_insert(int32_t id) {
  const auto at = std::ranges::lower_bound(edit_e_, id, {}, &LogitEdit::id);
  const auto e = at - edit_e_.begin();
  if (at == edit_e_.end() || at->id != id) {
    edit_e_.insert(at, {.id = id});
    count_e_.insert(count_e_.begin() + e, 0);
  }
  return static_cast<size_t>(e);
}

}  // namespace guildhall
