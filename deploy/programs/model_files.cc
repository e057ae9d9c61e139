#include "deploy/programs/model_files.h"

#include <fmt/format.h>

namespace guildhall {

Result<ModelSpec> read_spec(const config::Config& config) { return read_model_spec(config.model().path()); }

Result<std::unique_ptr<Tokenizer>> read_tokenizer(const config::Config& config, const ModelSpec& spec) {
  GH_ASSIGN(auto tokenizer, Tokenizer::load(config.model().path()));
  if (tokenizer->vocab_size() > spec.vocab_size)
    return Status{Code::invalid_argument,
                  fmt::format("{}/tokenizer.json has {} ids, config.json's vocab_size is {}", config.model().path(),
                              tokenizer->vocab_size(), spec.vocab_size)};
  return tokenizer;
}

}  // namespace guildhall
