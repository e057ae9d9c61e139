#include "deploy/programs/model_files.h"

#include <fmt/format.h>

#include <filesystem>

#include "model/tokenizer/byte_tokenizer.h"

namespace guildhall {

namespace {

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const config::Config& config) {
  const std::filesystem::path dir = config.model().path();
  if (config.model().load() == "dummy" && !std::filesystem::exists(dir / "tokenizer.json"))
    return make_byte_tokenizer();
  return Tokenizer::load(dir);
}

}  // namespace

Result<ModelSpec> read_spec(const config::Config& config) { return read_model_spec(config.model().path()); }

Result<std::unique_ptr<Tokenizer>> read_tokenizer(const config::Config& config, const ModelSpec& spec) {
  GH_ASSIGN(auto tokenizer, load_tokenizer(config));
  if (tokenizer->vocab_size() > spec.vocab_size)
    return Status{Code::invalid_argument,
                  fmt::format("{}/tokenizer.json has {} ids, config.json's vocab_size is {}",
                              config.model().path(), tokenizer->vocab_size(), spec.vocab_size)};
  return tokenizer;
}

}  // namespace guildhall
