// decoder.h: from tokens back to bytes. Two kinds: ByteLevel, where each token spells bytes; and the
// Metaspace kind, where a token is text with a sign for spaces, and "<0x0A>" is one byte.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tokenizer/components.h"

namespace guildhall {

class Decoder {
 public:
  // root is the whole tokenizer.json.
  static Result<Decoder> read(const JsonObject& root);

  // What one token contributes wherever it stands.
  std::string token_bytes(std::string_view token) const;

  // Whether a text is its tokens' bytes one after the other, repaired as UTF-8; if not, decode() makes it.
  bool concatenates() const { return byte_level_; }

  // All tokens, as written in the vocabulary, to valid UTF-8. Only if not concatenates().
  std::string decode(const std::vector<std::string_view>& tokens) const;

 private:
  struct Replace {
    Regex pattern;
    std::string content;
  };
  struct Strip {
    std::string content;
    int64_t start = 0, stop = 0;  // at most so many copies of content from each end
  };
  Result<void> read_component(const Component& component);
  std::optional<char> fallback_byte(std::string_view token) const;

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fused_ = false;
  std::vector<Replace> replaces_;
  std::vector<Strip> strips_;
  std::string dropped_in_first_;  // Metaspace: the sign for a space, which the first token loses
};

}  // namespace guildhall
