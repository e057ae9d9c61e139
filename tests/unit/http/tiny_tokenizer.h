// tiny_tokenizer.h: a byte-level tokenizer for tests: id b is the byte b (0..255), 256 is "he", 257 is "ll",
// 258 is "<s>" (bos), 259 is "</s>" (eos).
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace guildhall {

inline constexpr int32_t kHe = 256, kLl = 257, kBos = 258, kEos = 259, kTinyVocab = 260;

const Tokenizer& tiny_tokenizer();
std::vector<int32_t> byte_ids(std::string_view text);  // one id per byte

}  // namespace guildhall
