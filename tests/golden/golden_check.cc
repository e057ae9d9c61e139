// golden_check.cc: golden_check [--rows bf16] [--cache bf16] FOLDER...: how far this build is from the oracle
// on checkpoints made by `make_golden.py --out FOLDER --case random`; fails when one is beyond its tolerance.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>

#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct Difference {
  float prompt = 0, greedy = 0;  // of a log-probability
  bool parted = false;           // took another greedy token where the oracle was decided
};

Completion run(LocalEngine& engine, const GoldenPrompt& prompt) {
  EngineRequest request;
  request.prompt_ids = prompt.ids;
  request.sampling.temperature = 0;
  request.max_tokens = static_cast<int32_t>(prompt.greedy_ids.size());
  request.num_logprobs = request.num_prompt_logprobs = 0;
  return engine.run(std::move(request));
}

void compare(const GoldenCase& golden, const GoldenPrompt& prompt, const Completion& got, Difference& worst) {
  for (size_t i = 0; i < prompt.logprobs.size(); ++i)
    worst.prompt =
        std::max(worst.prompt, std::abs(got.prompt_logprobs[i].chosen.logprob - prompt.logprobs[i]));
  for (size_t i = 0; i < prompt.greedy_ids.size(); ++i) {
    if (got.tokens[i] != prompt.greedy_ids[i]) {
      worst.parted |= prompt.greedy_margins[i] > golden.tolerance;
      return;
    }
    worst.greedy =
        std::max(worst.greedy, std::abs(got.logprobs[i].chosen.logprob - prompt.greedy_logprobs[i]));
  }
}

bool check(const std::filesystem::path& folder, const LocalEngineOptions& options) {
  const GoldenCase golden = read_golden_case(folder);
  LocalEngine engine(folder, options);
  Difference worst;
  for (const GoldenPrompt& prompt : golden.prompts) compare(golden, prompt, run(engine, prompt), worst);
  const bool good = worst.prompt <= golden.tolerance && worst.greedy <= golden.tolerance && !worst.parted;
  fmt::print("{:<4} {:<40} prompt {:.2g} greedy {:.2g}{}\n", good ? "ok" : "BAD", golden.name, worst.prompt,
             worst.greedy, worst.parted ? ", took another token" : "");
  return good;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  std::string rows = "f32", cache = "f32";
  std::vector<std::string> folders;
  CLI::App app("How far this build is from transformers", "golden_check");
  app.add_option("--rows", rows, "Rows on the wire")->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--cache", cache, "KV cache")->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("FOLDER", folders, "Checkpoints with their expected.json")->required();
  CLI11_PARSE(app, argc, argv);

  using namespace guildhall;
  const LocalEngineOptions options{.num_workers = 3,
                                   .codec = rows == "bf16" ? Codec::bf16 : Codec::f32,
                                   .kv_dtype = cache == "bf16" ? DType::bf16 : DType::f32};
  bool good = true;
  for (const std::string& folder : folders) good = check(folder, options) && good;
  return good ? 0 : 1;
}
