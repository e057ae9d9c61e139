#include "router/http/sampling_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <random>

#include "router/http/json_fields.h"

namespace guildhall {
namespace {

namespace json = boost::json;

// A float can lose a tiny number to zero, which the sampler does not take.
float above_zero(double number) {
  return std::max(static_cast<float>(number), std::numeric_limits<float>::min());
}

ApiResult<void> parse_seed(const json::object& body, CompletionCall& call) {
  const json::value* seed = find_field(body, "seed");
  if (!seed) {
    thread_local std::mt19937_64 generator{std::random_device{}()};
    call.seed = generator();
  } else if (seed->is_uint64()) {
    call.seed = seed->get_uint64();
  } else if (const auto number = whole_number(*seed)) {
    call.seed = static_cast<uint64_t>(*number);
  } else {
    return bad_field("seed", fmt::format("must be a whole number of at most 64 bits, not {}", shown(*seed)));
  }
  return {};
}

ApiResult<LogitBias> read_bias(const json::object::value_type& item, int32_t vocab_size) {
  const std::string_view key = item.key();
  int32_t id = -1;
  std::from_chars(key.data(), key.data() + key.size(), id);
  if (id < 0 || id >= vocab_size || std::to_string(id) != key)
    return bad_field("logit_bias", fmt::format("has the key \"{}\"; keys are token ids from 0 to {}",
                                               printable(key, 40), vocab_size - 1));
  const json::value& bias = item.value();
  constexpr double kMost = 100;  // OpenAI's
  if (!bias.is_number() || !(std::abs(bias.to_number<double>()) <= kMost))
    return bad_field("logit_bias", fmt::format("of token {} must be a number from {} to {}, not {}", id,
                                               -kMost, kMost, shown(bias)));
  return LogitBias{id, bias.to_number<float>()};
}

ApiResult<void> parse_logit_bias(const json::object& body, const CompletionRules& rules, LogitRules& logits) {
  const json::value* value = find_field(body, "logit_bias");
  if (!value) return {};
  if (!value->is_object())
    return bad_field("logit_bias",
                     fmt::format("must be an object, like {{\"50\": -100}}, not {}", shown(*value)));
  const json::object& biases = value->get_object();
  if (biases.size() > kMaxLogitBiases)
    return bad_field("logit_bias",
                     fmt::format("has {} tokens; give at most {}", biases.size(), kMaxLogitBiases));
  for (const auto& item : biases) {
    GH_ASSIGN(const LogitBias bias, read_bias(item, rules.vocab_size()));
    logits.bias.push_back(bias);
  }
  return {};
}

ApiResult<void> parse_allowed(const json::object& body, const CompletionRules& rules, LogitRules& logits) {
  const json::value* value = find_field(body, "allowed_token_ids");
  if (!value) return {};
  GH_ASSIGN(logits.allowed_token_ids, read_token_ids(*value, "allowed_token_ids", rules.vocab_size()));
  const size_t size = logits.allowed_token_ids.size(), most = static_cast<size_t>(rules.vocab_size());
  if (size == 0 || size > most)
    return bad_field("allowed_token_ids", fmt::format("has {} ids; give from 1 to {}", size, most));
  return {};
}

ApiResult<void> parse_penalties(const json::object& body, LogitRules& logits) {
  GH_ASSIGN(const auto repetition,
            read_number(body, "repetition_penalty", {0, kMaxRepetitionPenalty, /*min_excluded=*/true}));
  GH_ASSIGN(const auto presence, read_number(body, "presence_penalty", {-2, 2}));
  GH_ASSIGN(const auto frequency, read_number(body, "frequency_penalty", {-2, 2}));
  if (repetition) logits.repetition_penalty = above_zero(*repetition);
  logits.presence_penalty = static_cast<float>(presence.value_or(0));
  logits.frequency_penalty = static_cast<float>(frequency.value_or(0));
  return {};
}

ApiResult<void> add_stop(const json::value& value, std::vector<std::string>& stops) {
  if (!value.is_string()) return bad_field("stop", "must be a string or a list of strings");
  const std::string_view text = value.get_string();
  if (text.empty()) return bad_field("stop", "must not hold an empty string; leave it out to stop nowhere");
  if (text.size() > kMaxStopBytes)
    return bad_field("stop", fmt::format("has a string of {} bytes; each may have at most {}", text.size(),
                                         kMaxStopBytes));
  stops.emplace_back(text);
  return {};
}

}  // namespace

ApiResult<void> parse_sampling(const json::object& body, const CompletionRules& rules, CompletionCall& call) {
  GH_ASSIGN(const auto temperature, read_number(body, "temperature", {0, 2}));
  GH_ASSIGN(const auto top_p, read_number(body, "top_p", {0, 1, /*min_excluded=*/true}));
  GH_ASSIGN(const auto top_k, read_int(body, "top_k", {-1, INT32_MAX}));
  GH_ASSIGN(const auto min_p, read_number(body, "min_p", {0, 1}));
  call.sampling.temperature = static_cast<float>(temperature.value_or(1));
  call.sampling.top_p = above_zero(top_p.value_or(1));
  call.sampling.top_k = static_cast<int32_t>(std::max<int64_t>(0, top_k.value_or(0)));  // -1 is "off" as well
  call.sampling.min_p = static_cast<float>(min_p.value_or(0));
  GH_TRY(parse_seed(body, call));
  GH_TRY(parse_penalties(body, call.logit_rules));
  GH_TRY(parse_logit_bias(body, rules, call.logit_rules));
  return parse_allowed(body, rules, call.logit_rules);
}

ApiResult<void> parse_stops(const json::object& body, const CompletionRules& rules, CompletionCall& call) {
  if (const json::value* value = find_field(body, "stop")) {
    const json::array* array = value->if_array();
    if (array && array->size() > kMaxStops)
      return bad_field("stop", fmt::format("has {} strings; give at most {}", array->size(), kMaxStops));
    if (array) {
      for (const json::value& item : *array) GH_TRY(add_stop(item, call.stops));
    } else {
      GH_TRY(add_stop(*value, call.stops));
    }
  }
  std::vector<int32_t> ids;
  if (const json::value* value = find_field(body, "stop_token_ids")) {
    GH_ASSIGN(ids, read_token_ids(*value, "stop_token_ids", rules.vocab_size()));
    if (ids.size() > kMaxStopTokenIds)
      return bad_field("stop_token_ids",
                       fmt::format("has {} ids; give at most {}", ids.size(), kMaxStopTokenIds));
  }
  GH_ASSIGN(const bool ignore_eos, read_bool(body, "ignore_eos", false));
  if (!ignore_eos) call.stop_token_ids = rules.eos_token_ids;
  call.stop_token_ids.insert(call.stop_token_ids.end(), ids.begin(), ids.end());

  GH_ASSIGN(const auto min_tokens, read_int(body, "min_tokens", {0, INT32_MAX}));
  call.logit_rules.min_tokens = static_cast<int32_t>(min_tokens.value_or(0));
  if (call.logit_rules.min_tokens == 0) return {};
  call.logit_rules.held_token_ids = rules.eos_token_ids;
  call.logit_rules.held_token_ids.insert(call.logit_rules.held_token_ids.end(), ids.begin(), ids.end());
  return {};
}

ApiResult<void> check_min_tokens(const CompletionCall& call) {
  const LogitRules& logits = call.logit_rules;
  const auto held = [&](int32_t id) {
    return std::ranges::find(logits.held_token_ids, id) != logits.held_token_ids.end();
  };
  if (logits.min_tokens > 0 && !logits.allowed_token_ids.empty() &&
      std::ranges::all_of(logits.allowed_token_ids, held))
    return bad_field(
        "allowed_token_ids",
        fmt::format("holds tokens that end the answer only, of which min_tokens ({}) allows none; "
                    "allow another, or send min_tokens 0",
                    logits.min_tokens));
  if (logits.min_tokens <= call.max_tokens) return {};
  return bad_field("min_tokens", fmt::format("must be a whole number from 0 to max_tokens ({}), not {}",
                                             call.max_tokens, logits.min_tokens));
}

}  // namespace guildhall
