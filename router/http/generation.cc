#include "router/http/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>

namespace guildhall {
namespace {

// SplitMix64's finaliser (Steele, Lea, Flood 2014): choices of one seed draw from unrelated streams. Choice 0
// keeps the seed itself, so n does not change the first choice.
uint64_t choice_seed(uint64_t seed, int choice_idx) {
  if (choice_idx == 0) return seed;
  uint64_t z = seed + 0x9E3779B97F4A7C15u * static_cast<uint64_t>(choice_idx);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

std::string cache_salt_of(const CompletionCall& call) { return call.tenant + '\0' + call.cache_salt; }

ApiResult<std::unique_ptr<Generation>> Generation::start(EngineClient& engine, const Tokenizer& tokenizer,
                                                         CompletionCall call, std::function<void()> wake) {
  std::unique_ptr<Generation> generation(new Generation(engine, tokenizer, std::move(call), std::move(wake)));
  GH_TRY(generation->submit_all());
  return generation;
}

Generation::Generation(EngineClient& engine, const Tokenizer& tokenizer, CompletionCall call,
                       std::function<void()> wake)
    : engine_(engine),
      tokenizer_(tokenizer),
      call_(std::move(call)),
      mailbox_(std::make_shared<EventMailbox>(std::move(wake))) {}

Generation::~Generation() {
  mailbox_->close();
  for (Sequence& sequence : sequences_)
    if (sequence.running) engine_.cancel(sequence.id);
}

ApiResult<void> Generation::submit_all() {
  for (size_t prompt_idx = 0; prompt_idx < call_.prompts.size(); ++prompt_idx) {
    usage_.prompt_tokens += static_cast<int64_t>(call_.prompts[prompt_idx].ids.size());
    if (call_.echo) echoes_.push_back(echo_of(call_.prompts[prompt_idx]));
    for (int choice_idx = 0; choice_idx < call_.best_of; ++choice_idx) {
      size_t sequence_idx = sequences_.size();
      auto sink = [mailbox = mailbox_, sequence_idx](EngineEvent&& event) {
        mailbox->put(sequence_idx, std::move(event));
      };
      Result<RequestId> id = engine_.submit(engine_request(prompt_idx, choice_idx), std::move(sink));
      if (!id) return to_api_error(id.error());
      TextAccumulator::Options options;
      options.stops = call_.stops;
      options.include_stop = call_.include_stop;
      options.min_tokens = call_.logit_rules.min_tokens;
      options.keep_tokens = call_.num_logprobs.has_value();
      if (call_.echo) options.first_offset = count_chars(echoes_[prompt_idx].text);
      sequences_.push_back(
          Sequence{*id, prompt_idx, choice_idx == 0, TextAccumulator(tokenizer_, std::move(options))});
      sequences_.back().echo_due = call_.echo;
      ++num_running_;
    }
  }
  return {};
}

EngineRequest Generation::engine_request(size_t prompt_idx, int choice_idx) const {
  EngineRequest request;
  request.prompt_ids = call_.prompts[prompt_idx].ids;
  request.sampling = call_.sampling;
  request.logit_rules = call_.logit_rules;
  request.seed = choice_seed(call_.seed, choice_idx);
  request.max_tokens = call_.max_tokens;
  request.stop_token_ids = call_.stop_token_ids;
  request.num_logprobs = call_.num_logprobs;
  if (ranks() && !request.num_logprobs) request.num_logprobs = 0;
  if (scores_prompt(choice_idx == 0))
    request.num_prompt_logprobs =
        std::max(call_.num_prompt_logprobs.value_or(0), call_.echo ? call_.num_logprobs.value_or(0) : 0);
  request.routed_experts = call_.routed_experts.has_value();
  request.prompt_routed_experts = call_.routes_prompt() && choice_idx == 0;
  request.priority = call_.priority;
  request.tenant = call_.tenant;
  request.cache_salt = cache_salt_of(call_);
  if (choice_idx > 0) request.beside = sequences_.back().id;
  return request;
}

// Each echo has its scores; `prompt_logprobs` are a prompt's, once.
bool Generation::scores_prompt(bool first_choice) const {
  return (call_.echo && call_.num_logprobs) || (call_.num_prompt_logprobs && first_choice);
}

// A text prompt is echoed as it came. Its tokens' offsets follow from the tokens' own text, where a
// beginning-of-text token the tokenizer added has none.
Generation::Echo Generation::echo_of(const Prompt& prompt) const {
  Echo echo;
  StreamDecoder decoder(tokenizer_, /*skip_special_tokens=*/false);
  std::string decoded;
  int64_t num_chars = 0;
  for (size_t i = 0; i < prompt.ids.size(); ++i) {
    echo.offsets.push_back(num_chars);
    bool added = prompt.text && i == 0 && tokenizer_.is_special(prompt.ids[0]) &&
                 !prompt.text->starts_with(tokenizer_.token_bytes(prompt.ids[0], false));
    if (added) continue;
    std::string piece = decoder.push(prompt.ids[i]);
    num_chars += count_chars(piece);
    decoded += piece;
  }
  decoded += decoder.finish();
  echo.text = prompt.text ? *prompt.text : decoded;
  int64_t last = count_chars(echo.text);  // a normalising tokenizer's own text may be longer
  for (int64_t& offset : echo.offsets) offset = std::min(offset, last);
  return echo;
}

void Generation::expire(const ApiError& error) {
  const bool any = has_tokens();
  for (Sequence& sequence : sequences_) {
    if (!sequence.running) continue;
    engine_.cancel(sequence.id);
    if (!any || lacks_scores(sequence) || lacks_experts(sequence)) {
      error_ = error;
      continue;
    }
    sequence.touched = true;
    end(sequence, "abort");
  }
}

std::vector<ChoiceDelta> Generation::pump() {
  behind_ = false;
  for (EventMailbox::Item& item : mailbox_->drain()) {
    behind_ = behind_ || sequences_[item.sequence_idx].touched;
    apply(sequences_[item.sequence_idx], std::move(item.event));
  }
  std::vector<ChoiceDelta> deltas;
  if (error_) return deltas;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (!std::exchange(sequences_[i].touched, false)) continue;
    if (auto delta = delta_of(sequences_[i], static_cast<int>(i))) deltas.push_back(std::move(*delta));
  }
  return deltas;
}

void Generation::apply(Sequence& sequence, EngineEvent&& event) {
  if (!sequence.running || error_) {
    if (event.finish) sequence.running = false;
    return;
  }
  sequence.touched = true;
  if (sequence.first_choice) usage_.cached_tokens += event.num_cached_tokens - sequence.num_cached_tokens;
  sequence.num_cached_tokens = event.num_cached_tokens;
  std::move(event.prompt_logprobs.begin(), event.prompt_logprobs.end(),
            std::back_inserter(sequence.prompt_logprobs));
  sequence.prompt_routed_experts.insert(sequence.prompt_routed_experts.end(),
                                        event.prompt_routed_experts.begin(),
                                        event.prompt_routed_experts.end());
  apply_tokens(sequence, event);
  if (sequence.text.stopped()) {
    if (!event.finish) engine_.complete(sequence.id);
    return end(sequence, "stop");
  }
  if (!event.finish) return;
  switch (*event.finish) {
    case FinishReason::stop:
      return end(sequence, "stop");
    case FinishReason::length:
      return end(sequence, "length");
    case FinishReason::cancelled:
      sequence.running = false;
      error_ = ApiError{503, "the server cancelled this request; try again", "", "cancelled"};
      return;
    case FinishReason::error:
      sequence.running = false;
      error_ = event.error
                   ? to_api_error(*event.error)
                   : ApiError{500, "the engine failed on this request and gave no reason", "", "internal"};
      return;
  }
}

void Generation::apply_tokens(Sequence& sequence, EngineEvent& event) {
  for (size_t i = 0; i < event.tokens.size() && !sequence.text.stopped(); ++i) {
    int32_t id = event.tokens[i];
    ++usage_.completion_tokens;
    ++sequence.num_tokens;
    if (call_.return_token_ids) sequence.token_ids.push_back(id);
    if (call_.routed_experts) {
      const auto per_token = static_cast<ptrdiff_t>(event.routed_experts.size() / event.tokens.size());
      const auto begin = event.routed_experts.begin() + static_cast<ptrdiff_t>(i) * per_token;
      sequence.routed_experts.insert(sequence.routed_experts.end(), begin, begin + per_token);
    }
    std::optional<PositionLogprobs> logprobs;
    if (i < event.logprobs.size()) {
      sequence.sum_logprob += event.logprobs[i].chosen.logprob;
      logprobs = std::move(event.logprobs[i]);
    }
    bool is_stop_token = event.finish == FinishReason::stop && i + 1 == event.tokens.size() &&
                         std::count(call_.stop_token_ids.begin(), call_.stop_token_ids.end(), id) > 0;
    if (is_stop_token && !call_.include_stop)
      sequence.text.push_hidden(id, std::move(logprobs));
    else
      sequence.text.push(id, std::move(logprobs));
  }
}

void Generation::end(Sequence& sequence, std::string_view finish_reason) {
  sequence.text.finish();
  sequence.running = false;
  sequence.finish_reason = finish_reason;
  --num_running_;
  if (lacks_scores(sequence))
    error_ = ApiError{500,
                      fmt::format("the engine scored {} of {} prompt tokens", sequence.prompt_logprobs.size(),
                                  call_.prompts[sequence.prompt_idx].ids.size() - 1),
                      "", "internal"};
  if (lacks_experts(sequence))
    error_ = ApiError{500, "the engine did not tell all of the prompt's experts", "", "internal"};
}

// Its prompt's log-probabilities were asked for and are not all there.
bool Generation::lacks_scores(const Sequence& sequence) const {
  const bool due = sequence.echo_due ? call_.num_logprobs.has_value()
                                     : !call_.echo && scores_prompt(sequence.first_choice);
  return due && sequence.prompt_logprobs.size() != call_.prompts[sequence.prompt_idx].ids.size() - 1;
}

// Its prompt's experts were asked for and are not all there.
bool Generation::lacks_experts(const Sequence& sequence) const {
  if (!call_.routes_prompt() || !sequence.first_choice || sequence.prompt_experts_told) return false;
  const auto num_tokens = std::ssize(call_.prompts[sequence.prompt_idx].ids);
  return std::ssize(sequence.prompt_routed_experts) != num_tokens * call_.routed_experts->ids_per_token();
}

std::optional<ChoiceDelta> Generation::delta_of(Sequence& sequence, int index) {
  if (sequence.closed) return std::nullopt;
  ChoiceDelta delta;
  delta.index = index;
  if (lacks_experts(sequence)) return std::nullopt;  // they come with the first text
  if (sequence.echo_due) {
    size_t num_scored = call_.prompts[sequence.prompt_idx].ids.size() - 1;
    if (call_.num_logprobs && sequence.prompt_logprobs.size() < num_scored) return std::nullopt;
    add_echo(sequence, delta);
  }
  TextDelta more = sequence.text.take();
  delta.text += more.text;
  std::move(more.tokens.begin(), more.tokens.end(), std::back_inserter(delta.tokens));
  delta.token_ids = std::exchange(sequence.token_ids, {});
  delta.routed_experts = std::exchange(sequence.routed_experts, {});
  delta.prompt_routed_experts = std::exchange(sequence.prompt_routed_experts, {});
  sequence.prompt_experts_told = true;
  delta.finish_reason = sequence.finish_reason;
  sequence.closed = delta.finish_reason.has_value();
  if (delta.text.empty() && delta.tokens.empty() && delta.token_ids.empty() && delta.routed_experts.empty() &&
      !delta.finish_reason)
    return std::nullopt;
  return delta;
}

void Generation::add_echo(Sequence& sequence, ChoiceDelta& delta) {
  sequence.echo_due = false;
  const Echo& echo = echoes_[sequence.prompt_idx];
  delta.text = echo.text;
  if (!call_.num_logprobs) return;
  const std::vector<int32_t>& ids = call_.prompts[sequence.prompt_idx].ids;
  for (size_t i = 0; i < ids.size(); ++i) {
    ScoredToken token{ids[i], std::nullopt, echo.offsets[i]};
    if (i > 0) {
      PositionLogprobs logprobs = sequence.prompt_logprobs[i - 1];
      logprobs.top.resize(std::min(logprobs.top.size(), static_cast<size_t>(*call_.num_logprobs)));
      token.logprobs = std::move(logprobs);
    }
    delta.tokens.push_back(std::move(token));
  }
  if (!call_.num_prompt_logprobs) sequence.prompt_logprobs.clear();
}

std::vector<ChoiceDelta> Generation::choices(std::vector<ChoiceDelta> sequences) {
  const auto likelihood = [&](const ChoiceDelta& choice) {
    const Sequence& s = sequences_[static_cast<size_t>(choice.index)];
    const double mean = s.num_tokens > 0 ? s.sum_logprob / static_cast<double>(s.num_tokens) : 0;
    return std::isnan(mean) ? -std::numeric_limits<double>::infinity() : mean;
  };
  const auto drawn = static_cast<size_t>(call_.best_of);
  std::vector<ChoiceDelta> choices;
  for (size_t first = 0; first < sequences.size(); first += drawn) {
    const std::span<ChoiceDelta> of_prompt = std::span(sequences).subspan(first, drawn);
    std::vector<uint16_t> prompt_experts = std::move(of_prompt.front().prompt_routed_experts);
    if (ranks()) std::ranges::stable_sort(of_prompt, std::greater<>(), likelihood);
    of_prompt.front().prompt_routed_experts = std::move(prompt_experts);
    for (ChoiceDelta& choice : of_prompt.first(static_cast<size_t>(call_.num_choices))) {
      choice.index = static_cast<int>(choices.size());
      if (call_.num_prompt_logprobs) {
        choice.prompt_logprobs = sequences_[first].prompt_logprobs;
        for (PositionLogprobs& one : choice.prompt_logprobs)
          one.top.resize(std::min(one.top.size(), static_cast<size_t>(*call_.num_prompt_logprobs)));
      }
      choices.push_back(std::move(choice));
    }
  }
  return choices;
}

}  // namespace guildhall
