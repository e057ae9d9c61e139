#include "router/expert_report.h"

namespace guildhall {

// The chunk's wanted rows are its part of the prompt, then the row that gave a token. A part of the prompt
// that no chunk had until now was in the cache.
void report_experts(const ScheduledChunk& chunk, const RoutedExperts& routed, EngineEvent& event) {
  if (chunk.num_routed == 0) return;
  Sequence& s = *chunk.sequence;
  const int64_t num_generated = s.request.routed_experts ? std::ssize(event.tokens) : 0;
  const int64_t num_prompt = chunk.num_routed - num_generated;
  const auto append = [&](int64_t first, int64_t count, std::vector<uint16_t>& to) {
    const std::span<const uint16_t> ids = routed.ids(first, count);
    to.insert(to.end(), ids.begin(), ids.end());
  };
  if (num_prompt > 0) {
    const int64_t num_cached = chunk.first_routed_position - s.num_prompt_routed;
    event.prompt_routed_experts.assign(static_cast<size_t>(num_cached * routed.shape().ids_per_token()),
                                       kNotRouted);
    append(chunk.first_routed, num_prompt, event.prompt_routed_experts);
    s.num_prompt_routed = chunk.first_routed_position + num_prompt;
  }
  append(chunk.first_routed + num_prompt, num_generated, event.routed_experts);
}

}  // namespace guildhall
