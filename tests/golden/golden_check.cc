// golden_check.cc: golden_check FOLDER...: how far this build is from the oracle on checkpoints made by
// `make_golden.py --out FOLDER --case random`; fails when one is beyond its tolerance.
#include <fmt/format.h>

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

bool check(const std::filesystem::path& folder) {
  const GoldenCase golden = read_golden_case(folder);
  LocalEngine engine(folder, {.num_workers = 3});
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
  bool good = argc > 1;
  for (int i = 1; i < argc; ++i) good = guildhall::check(argv[i]) && good;
  return good ? 0 : 1;
}
