// sampling_fields.h: the fields of a call that say how tokens are drawn and what ends an answer, the same for
// completions and conversations.
#pragma once

#include "router/http/completions.h"

namespace guildhall {

// What these fields may hold at most.
inline constexpr size_t kMaxStops = 16;
inline constexpr size_t kMaxStopBytes = 256;  // each token's text is compared with every prefix of every stop
inline constexpr size_t kMaxStopTokenIds = 64;
inline constexpr size_t kMaxLogitBiases = 1024;
inline constexpr double kMaxRepetitionPenalty = 100;  // models make no logits that need more

// temperature, top_p, top_k, min_p, seed, penalties, logit_bias, allowed_token_ids.
ApiResult<void> parse_sampling(const boost::json::object& body, const CompletionRules& rules,
                               CompletionCall& call);
// stop, stop_token_ids, ignore_eos, min_tokens.
ApiResult<void> parse_stops(const boost::json::object& body, const CompletionRules& rules,
                            CompletionCall& call);
// Whether min_tokens fits max_tokens, once that is known, and leaves a token that is allowed.
ApiResult<void> check_min_tokens(const CompletionCall& call);

}  // namespace guildhall
