// post_processor.h: the ids put before and after an encoded text, such as the beginning-of-sequence token.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "model/tokenizer/components.h"

namespace guildhall {

struct PostProcessor {
  std::vector<int32_t> prefix, suffix;

  // root is the whole tokenizer.json. Only the template for a single sequence is read.
  static Result<PostProcessor> read(const JsonObject& root);
};

}  // namespace guildhall
