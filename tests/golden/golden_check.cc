// golden_check.cc: golden_check [--rows bf16] [--combine reduced] [--cache fp8] FOLDER...: how far this
// build is from the oracle on checkpoints made by `make_golden.py --out FOLDER --case random`; fails when one
// is beyond its tolerance.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <map>

#include "tests/support/golden_case.h"
#include "tests/support/local_engine.h"

namespace guildhall {
namespace {

struct Difference {
  float prompt = 0, greedy = 0;  // of a log-probability
  double prompt_sum = 0;         // over all positions of all prompts
  size_t prompt_count = 0;
  bool parted = false;  // took another greedy token where the oracle was decided

  double prompt_mean() const { return prompt_count > 0 ? prompt_sum / static_cast<double>(prompt_count) : 0; }
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
  for (size_t i = 0; i < prompt.logprobs.size(); ++i) {
    const float difference = std::abs(got.prompt_logprobs[i].chosen.logprob - prompt.logprobs[i]);
    worst.prompt = std::max(worst.prompt, difference);
    worst.prompt_sum += difference;
    ++worst.prompt_count;
  }
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
  fmt::print("{:<4} {:<40} prompt {:.2g} (mean {:.2g}) greedy {:.2g}{}\n", good ? "ok" : "BAD", golden.name,
             worst.prompt, worst.prompt_mean(), worst.greedy, worst.parted ? ", took another token" : "");
  return good;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  using namespace guildhall;
  const std::map<std::string, Codec> codecs{{"f32", Codec::f32}, {"bf16", Codec::bf16}, {"fp8", Codec::fp8}};
  const std::map<std::string, DType> caches{
      {"f32", DType::f32}, {"bf16", DType::bf16}, {"fp8", DType::e4m3}, {"int8", DType::int8}};
  const auto is_codec = CLI::IsMember({"f32", "bf16", "fp8"});
  std::string rows = "f32", dispatch_rows, combine_rows, combine = "exact", cache = "f32";
  LocalEngineOptions options{.num_workers = 3};
  std::vector<std::string> folders;
  CLI::App app("How far this build is from transformers", "golden_check");
  app.add_option("--rows", rows, "Rows on the wire, both ways")->check(is_codec);
  app.add_option("--dispatch-rows", dispatch_rows, "Rows to the workers, if not as --rows")->check(is_codec);
  app.add_option("--combine-rows", combine_rows, "Rows from them, if not as --rows")->check(is_codec);
  app.add_option("--combine", combine, "What workers return")->check(CLI::IsMember({"exact", "reduced"}));
  app.add_option("--cache", cache, "KV cache")->check(CLI::IsMember(caches));
  app.add_option("--workers", options.num_workers, "Expert workers")->check(CLI::Range(1, 64));
  app.add_option("FOLDER", folders, "Checkpoints with their expected.json")->required();
  CLI11_PARSE(app, argc, argv);

  options.codecs = {.dispatch = codecs.at(dispatch_rows.empty() ? rows : dispatch_rows),
                    .combine = codecs.at(combine_rows.empty() ? rows : combine_rows)};
  options.combine = combine == "reduced" ? Combine::reduced : Combine::exact;
  options.kv_dtype = caches.at(cache);
  bool good = true;
  for (const std::string& folder : folders) good = check(folder, options) && good;
  return good ? 0 : 1;
}
