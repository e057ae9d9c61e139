#include "model/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include "model/json_reader.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/post_processor.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace json = boost::json;
namespace {

constexpr int64_t kMaxFileBytes = 256 << 20;  // the largest published are about 35 MB

struct NamedText {
  std::string_view text;
  std::string name;  // stands before a key in errors
};

}  // namespace

struct Tokenizer::Impl {
  struct Entry {
    std::string_view text, spelling;  // into bpe or added; the spelling is what decodes
    std::string bytes;
    bool special = false;
  };

  Bpe bpe;
  Normalizer normalizer;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  Decoder decoder;
  std::vector<Entry> entries;  // by id
  std::optional<int32_t> bos_id, eos_id;

  static Result<std::unique_ptr<Impl>> read(const NamedText& tokenizer, const NamedText& config);
  Result<void> read_tokenizer(const NamedText& file);
  Result<void> read_config(const NamedText& file);
  Result<std::optional<int32_t>> read_config_token(const JsonObject& config, std::string_view key) const;
  void fill_entries();

  const Entry* find(int32_t id, bool skip_special) const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  void encode_text(std::string_view text, bool at_start, std::vector<int32_t>& ids) const;
  void encode_segment(std::string_view text, bool at_start, bool parse_special,
                      std::vector<int32_t>& ids) const;
};

Result<void> Tokenizer::Impl::read_tokenizer(const NamedText& file) {
  GH_ASSIGN(const json::object object, parse_json_object(file.text, file.name));
  const JsonObject root(object, file.name + ": ");
  GH_ASSIGN(const std::optional<JsonObject> model, root.object("model"));
  if (!model) return root.error(Code::invalid_argument, "model", "is missing");
  GH_ASSIGN(bpe, Bpe::read(*model));
  GH_ASSIGN(normalizer, Normalizer::read(root));
  GH_ASSIGN(added, AddedTokens::read(root, bpe, normalizer));
  GH_ASSIGN(pre_tokenizer, PreTokenizer::read(root));
  GH_ASSIGN(post_processor, PostProcessor::read(root));
  GH_ASSIGN(decoder, Decoder::read(root));
  fill_entries();
  return {};
}

void Tokenizer::Impl::fill_entries() {
  int32_t size = bpe.size();
  for (const AddedToken& token : added.tokens()) size = std::max(size, token.id + 1);
  entries.resize(static_cast<size_t>(size));
  for (int32_t id = 0; id < bpe.size(); ++id) {
    Entry& entry = entries[static_cast<size_t>(id)];
    entry.text = entry.spelling = bpe.token_text(id);
  }
  for (const AddedToken& token : added.tokens()) {
    Entry& entry = entries[static_cast<size_t>(token.id)];
    entry.text = token.content;
    entry.spelling = token.spelling;
    entry.special = token.special;
  }
  for (Entry& entry : entries) entry.bytes = decoder.token_bytes(entry.spelling);
}

// "bos_token": "<s>" or {"content": "<s>", ...}; nothing if it is not there or not in the vocabulary.
Result<std::optional<int32_t>> Tokenizer::Impl::read_config_token(const JsonObject& config,
                                                                  std::string_view key) const {
  if (!config.has(key)) return std::optional<int32_t>();
  std::string content;
  if (config.raw().at(key).is_object()) {
    GH_ASSIGN(const std::optional<JsonObject> token, config.object(key));
    GH_ASSIGN(content, token->text("content"));
  } else {
    GH_ASSIGN(content, config.text(key));
  }
  return token_to_id(content);
}

Result<void> Tokenizer::Impl::read_config(const NamedText& file) {
  if (file.text.empty()) return {};
  GH_ASSIGN(const json::object object, parse_json_object(file.text, file.name));
  const JsonObject config(object, file.name + ": ");
  GH_ASSIGN(bos_id, read_config_token(config, "bos_token"));
  GH_ASSIGN(eos_id, read_config_token(config, "eos_token"));
  // Either flag, once stated, replaces the template of tokenizer.json; the other is then off unless stated
  // too.
  if (!config.has("add_bos_token") && !config.has("add_eos_token")) return {};
  GH_ASSIGN(const bool add_bos, config.boolean_or("add_bos_token", false));
  GH_ASSIGN(const bool add_eos, config.boolean_or("add_eos_token", false));
  for (const auto& [key, wanted, id] :
       {std::tuple{"bos_token", add_bos, bos_id}, {"eos_token", add_eos, eos_id}}) {
    if (wanted && config.has(key) && !id)
      return config.error(
          Code::invalid_argument, key,
          fmt::format("is to be added to every text (add_{}), but is not in the vocabulary", key));
  }
  post_processor = {};
  if (add_bos && bos_id) post_processor.prefix = {*bos_id};
  if (add_eos && eos_id) post_processor.suffix = {*eos_id};
  return {};
}

Result<std::unique_ptr<Tokenizer::Impl>> Tokenizer::Impl::read(const NamedText& tokenizer,
                                                               const NamedText& config) {
  auto impl = std::make_unique<Impl>();
  GH_TRY(impl->read_tokenizer(tokenizer));
  GH_TRY(impl->read_config(config));
  return impl;
}

const Tokenizer::Impl::Entry* Tokenizer::Impl::find(int32_t id, bool skip_special) const {
  if (id < 0 || static_cast<size_t>(id) >= entries.size()) return nullptr;
  const Entry& entry = entries[static_cast<size_t>(id)];
  return skip_special && entry.special ? nullptr : &entry;
}

std::optional<int32_t> Tokenizer::Impl::token_to_id(std::string_view token) const {
  if (const AddedToken* known = added.find(token)) return known->id;
  return bpe.token_to_id(token);
}

void Tokenizer::Impl::encode_text(std::string_view text, bool at_start, std::vector<int32_t>& ids) const {
  Pieces pieces{std::string(text), {{0, text.size()}}, at_start};
  pre_tokenizer.apply(pieces);
  for (const ByteSpan& span : pieces.spans) bpe.encode(pieces.view(span), ids);
}

// Text between added tokens that are looked for as written: normalise it, then look for the others.
void Tokenizer::Impl::encode_segment(std::string_view text, bool at_start, bool parse_special,
                                     std::vector<int32_t>& ids) const {
  std::string normal;
  if (!normalizer.empty()) {
    normal = normalizer.apply(text);
    text = normal;
  }
  std::vector<Segment> segments;
  added.split(text, AddedTokens::Stage::after_normalizing, parse_special, segments);
  for (const auto& [span, id] : segments) {
    if (id)
      ids.push_back(*id);
    else
      encode_text(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0, ids);
  }
}

Tokenizer::Tokenizer() = default;
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "tokenizer.json", config_path = dir / "tokenizer_config.json";
  GH_ASSIGN(const std::string text, read_text_file(path, kMaxFileBytes));
  std::string config_text;
  if (std::filesystem::exists(config_path)) {
    GH_ASSIGN(config_text, read_text_file(config_path, kMaxFileBytes));
  }
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  GH_ASSIGN(tokenizer->impl_, Impl::read({text, path.string()}, {config_text, config_path.string()}));
  return tokenizer;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::parse(std::string_view tokenizer_json,
                                                    std::string_view tokenizer_config_json) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  GH_ASSIGN(tokenizer->impl_,
            Impl::read({tokenizer_json, "tokenizer.json"}, {tokenizer_config_json, "tokenizer_config.json"}));
  return tokenizer;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string repaired;
  if (valid_utf8_length(text) != text.size()) {
    append_lossy(text, repaired);
    text = repaired;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 4);
  const PostProcessor& post = impl_->post_processor;
  if (options.add_special_tokens) ids = post.prefix;
  std::vector<Segment> segments;
  impl_->added.split(text, AddedTokens::Stage::before_normalizing, options.parse_special_tokens, segments);
  for (const auto& [span, id] : segments) {
    if (id)
      ids.push_back(*id);
    else
      impl_->encode_segment(text.substr(span.begin, span.end - span.begin), span.begin == 0,
                            options.parse_special_tokens, ids);
  }
  if (options.add_special_tokens) ids.insert(ids.end(), post.suffix.begin(), post.suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string text;
  if (impl_->decoder.concatenates()) {
    std::string bytes;
    for (const int32_t id : ids) bytes += token_bytes(id, skip_special_tokens);
    append_lossy(bytes, text);
    return text;
  }
  std::vector<std::string_view> tokens;
  for (const int32_t id : ids) {
    const Impl::Entry* entry = impl_->find(id, skip_special_tokens);
    if (entry != nullptr) tokens.push_back(entry->spelling);
  }
  return impl_->decoder.decode(tokens);
}

std::string_view Tokenizer::token_bytes(int32_t id, bool skip_special_tokens) const {
  const Impl::Entry* entry = impl_->find(id, skip_special_tokens);
  return entry == nullptr ? std::string_view() : std::string_view(entry->bytes);
}

std::string_view Tokenizer::token_text(int32_t id) const {
  const Impl::Entry* entry = impl_->find(id, false);
  return entry == nullptr ? std::string_view() : entry->text;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->entries.size()); }

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  return impl_->token_to_id(token);
}

std::optional<int32_t> Tokenizer::bos_token_id() const { return impl_->bos_id; }

std::optional<int32_t> Tokenizer::eos_token_id() const { return impl_->eos_id; }

bool Tokenizer::is_special(int32_t id) const {
  const Impl::Entry* entry = impl_->find(id, false);
  return entry != nullptr && entry->special;
}

}  // namespace guildhall
