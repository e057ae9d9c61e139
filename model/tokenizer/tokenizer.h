// tokenizer.h: text to ids and back, as Hugging Face's tokenizer.json describes it (byte-level BPE).
// Immutable after loading: any thread may encode and decode.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace guildhall {

struct EncodeOptions {
  bool add_special_tokens = true;    // what the post-processor / add_bos_token asks for
  bool parse_special_tokens = true;  // recognise special tokens written in the text; added tokens that are
                                     // not special ("<think>" of some models) always are
};

class Tokenizer {
 public:
  // Reads DIR/tokenizer.json and, if present, DIR/tokenizer_config.json. Errors name the file and the
  // component that is not supported.
  static Result<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& dir);
  static Result<std::unique_ptr<Tokenizer>> parse(std::string_view tokenizer_json,
                                                  std::string_view tokenizer_config_json);
  ~Tokenizer();

  // Text need not be valid UTF-8: bad sequences become U+FFFD.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const;

  // Ids outside the vocabulary decode to nothing. Lossy UTF-8: incomplete sequences become U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // One id's raw bytes (may be part of a UTF-8 sequence); empty for unknown ids and skipped specials.
  std::string_view token_bytes(int32_t id, bool skip_special_tokens) const;

  // The token as it is written in the vocabulary ("Ġthe"); empty if unknown.
  std::string_view token_text(int32_t id) const;

  int32_t vocab_size() const;  // ids are in [0, vocab_size)
  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::optional<int32_t> bos_token_id() const;
  std::optional<int32_t> eos_token_id() const;
  bool is_special(int32_t id) const;

 private:
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of ids into a stream of valid UTF-8, holding back an incomplete sequence until it is whole.
// The stream continues a text, so nothing is stripped from its beginning; for byte-level tokenizers all it
// gives equals decode(). With byte_fallback, decode() gives a bad run of byte tokens up whole and the stream
// only from the first bad sequence on. One per output sequence; not thread-safe.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  std::string push(int32_t id);  // the text that became complete
  std::string finish();          // what was held back, lossy

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string held_;  // an incomplete UTF-8 sequence, < 4 bytes
};

}  // namespace guildhall
