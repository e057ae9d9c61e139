// added_tokens.h: tokens found in the text before anything else is, such as "<|im_start|>".
#pragma once

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/json_reader.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/regex.h"

namespace guildhall {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  std::string spelling;      // as it is found in the text and decoded: content, or that normalised
  bool special = false;      // can be left out when decoding, and left unread when encoding
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // not next to a letter or digit
  bool normalized = false;   // looked for in the normalised text, in its normalised spelling
};

// A stretch of text: one added token, or what lies between.
struct Segment {
  ByteSpan span;
  std::optional<int32_t> id;
};

class AddedTokens {
 public:
  enum class Stage { before_normalizing, after_normalizing };

  // root is the whole tokenizer.json.
  static Result<AddedTokens> read(const JsonObject& root, const Bpe& bpe, const Normalizer& normalizer);

  // Replaces `segments` by the text's: the longest token at the leftmost place wins. A special token that is
  // not parsed still hides the tokens within it.
  void split(std::string_view text, Stage stage, bool parse_special, std::vector<Segment>& segments) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  const AddedToken* find(std::string_view content) const;  // nullptr: none

 private:
  // A trie over bytes; a node is an index, 0 the root.
  struct Trie {
    boost::unordered_flat_map<uint64_t, int32_t> children;  // (node << 8 | byte) -> node
    std::vector<int32_t> token_idx{-1};                     // by node: the token that ends there, or -1
    std::array<bool, 256> starts{};                         // bytes that begin a token
    void add(std::string_view text, int32_t token_idx);
  };
  struct Match {
    const AddedToken* token;
    ByteSpan span;
  };

  std::optional<Match> find_next(const Trie& trie, std::string_view text, size_t from) const;
  bool stands_alone(std::string_view text, ByteSpan span) const;

  std::vector<AddedToken> tokens_;
  boost::unordered_flat_map<std::string, size_t> by_content_;
  std::array<Trie, 2> tries_;  // by Stage
  Regex word_char_;            // one character of a word
};

}  // namespace guildhall
