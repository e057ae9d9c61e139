// paged_attention_bounds.cc: which tokens of a step stand alone, as the host sees them.
#include <algorithm>

#include "base/check.h"
#include "kernels/paged_attention.h"

namespace guildhall {

AttentionBounds attention_bounds(std::span<const int32_t> sequence_t, std::span<const int32_t> position_t) {
  GH_CHECK(sequence_t.size() == position_t.size());
  AttentionBounds bounds;
  const size_t num_tokens = sequence_t.size();
  for (size_t t = 0; t < num_tokens; ++t) {
    const bool lone = (t == 0 || sequence_t[t - 1] != sequence_t[t]) &&
                      (t + 1 == num_tokens || sequence_t[t + 1] != sequence_t[t]);
    TokenRange& range = lone ? bounds.lone : bounds.others;
    if (range.empty()) range.begin = static_cast<int64_t>(t);
    range.end = static_cast<int64_t>(t) + 1;
    bounds.max_context = std::max(bounds.max_context, int64_t{position_t[t]} + 1);
  }
  return bounds;
}

}  // namespace guildhall
