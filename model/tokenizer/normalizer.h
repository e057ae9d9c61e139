// normalizer.h: what tokenizer.json does to text before anything looks at it: Unicode forms, case,
// replacement.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tokenizer/components.h"
#include "model/tokenizer/regex.h"

namespace guildhall {

class Normalizer {
 public:
  // root is the whole tokenizer.json.
  static Result<Normalizer> read(const JsonObject& root);

  bool empty() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;  // text is valid UTF-8

 private:
  enum class Kind { nfc, nfd, nfkc, nfkd, lowercase, replace, prepend };
  struct Step {
    Kind kind;
    Regex pattern;        // replace
    std::string content;  // replace, prepend
  };
  static Result<Step> read_step(const Component& component);

  std::vector<Step> steps_;
};

}  // namespace guildhall
