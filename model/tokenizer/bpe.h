// bpe.h: byte-pair encoding of one piece: its characters become tokens, then adjacent tokens merge, the
// earliest learnt merge first and the leftmost of equals. Immutable after reading: any thread may encode.
#pragma once

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/json_reader.h"

namespace guildhall {

// Ids are below this. The largest vocabularies published have some 262,000 tokens.
inline constexpr int64_t kMaxVocab = 1 << 20;

class Bpe {
 public:
  // model is tokenizer.json's "model".
  static Result<Bpe> read(const JsonObject& model);

  // Appends the ids of one piece (valid UTF-8, as the pre-tokenizer left it). O(n log n) in its length.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::string_view token_text(int32_t id) const;                         // empty if unknown
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }  // the largest id and one

 private:
  struct Merge {
    int32_t rank = std::numeric_limits<int32_t>::max();  // this: the pair does not merge
    int32_t id = -1;
    bool possible() const { return id >= 0; }
  };
  struct Candidate;  // a pair waiting in the heap
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  Result<void> read_vocab(const JsonObject& model);
  Result<void> read_merges(const JsonObject& model);
  Result<void> read_unknown(const JsonObject& model);

  Merge find_merge(int32_t left, int32_t right) const;
  std::optional<int32_t> char_id(char32_t code, std::string_view text) const;
  bool append_fallback(std::string_view character, std::vector<int32_t>& symbols) const;
  void append_symbols(std::string_view piece, std::vector<int32_t>& symbols) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;

  std::vector<std::string> tokens_;  // by id; empty: no such token
  boost::unordered_flat_map<std::string, int32_t, StringHash, std::equal_to<>> ids_;
  boost::unordered_flat_map<uint64_t, Merge> merges_;  // (left id << 32 | right id)
  std::array<int32_t, 512> low_char_ids_{};  // by code point: -1 or the id; all that byte level uses
  std::array<int32_t, 256> byte_ids_{};      // "<0x0A>"; -1: none
  std::optional<int32_t> unknown_id_;
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
};

}  // namespace guildhall
