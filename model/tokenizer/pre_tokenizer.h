// pre_tokenizer.h: cuts normalised text into the pieces that BPE merges within.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tokenizer/components.h"
#include "model/tokenizer/regex.h"

namespace guildhall {

// A text and the pieces it is cut into: in order, not overlapping, never empty. Steps may rewrite the text.
struct Pieces {
  std::string text;
  std::vector<ByteSpan> spans;
  bool at_start = false;  // the text begins where the whole input does

  std::string_view view(const ByteSpan& span) const {
    return std::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

class PreTokenizer {
 public:
  // root is the whole tokenizer.json.
  static Result<PreTokenizer> read(const JsonObject& root);

  void apply(Pieces& pieces) const;

 private:
  // tokenizer.json's components in simpler steps: ByteLevel is prepend, split, byte_level; Metaspace is
  // replace_spaces, prepend, split.
  enum class Kind { split, prepend, replace_spaces, byte_level };
  enum class Behavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };
  struct Step {
    Kind kind;
    Regex pattern = {};  // split
    Behavior behavior = Behavior::isolated;
    bool invert = false;         // split: what the pattern does not match is the delimiter
    std::string text = {};       // prepend, replace_spaces
    bool only_at_start = false;  // prepend
  };

  Result<void> read_component(const Component& component);
  Result<void> read_split(const Component& component);
  Result<void> read_byte_level(const Component& component);
  Result<void> read_digits(const Component& component);
  Result<void> read_metaspace(const Component& component);

  static void split(const Step& step, Pieces& pieces);
  static void prepend(const Step& step, Pieces& pieces);

  std::vector<Step> steps_;
};

}  // namespace guildhall
