// golden_case.h: a tiny checkpoint and what transformers computed from it (tests/golden/README.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace guildhall {

struct GoldenPrompt {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;  // [ids.size() - 1]: of ids[1..]
  std::vector<int32_t> top5_ids;
  std::vector<float> top5_logprobs;
  std::vector<int32_t> greedy_ids;
  std::vector<float> greedy_logprobs, greedy_margins;
  // Of each position of ids and then greedy_ids but the last, per layer with experts, ascending; empty: not
  // asked.
  std::vector<uint16_t> experts;
};

struct GoldenCase {
  std::string name;
  std::filesystem::path path;
  float tolerance = 0;  // of a log-probability: 1e-3 for f32 weights, 2e-2 for bf16
  std::vector<GoldenPrompt> prompts;
};

std::vector<std::string> golden_case_names();
GoldenCase read_golden_case(const std::string& name);
GoldenCase read_golden_case(const std::filesystem::path& folder);

}  // namespace guildhall
