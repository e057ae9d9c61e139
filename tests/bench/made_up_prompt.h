// made_up_prompt.h: prompts for benches, whose tokens mean nothing: the same for the same salt, and with
// others no common beginning.
#pragma once

#include <cstdint>
#include <vector>

namespace guildhall {

inline std::vector<int32_t> made_up_prompt(int64_t vocab_size, int64_t length, int64_t salt) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i)
    ids.push_back(static_cast<int32_t>((i * 7919 + salt * 104729 + 11) % vocab_size));
  return ids;
}

}  // namespace guildhall
