// stream_decoder.cc: ids to text as they arrive.
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"

namespace guildhall {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

std::string StreamDecoder::push(int32_t id) {
  held_ += tokenizer_->token_bytes(id, skip_special_tokens_);
  const size_t complete = held_.size() - incomplete_tail_length(held_);
  std::string text;
  append_lossy(std::string_view(held_).substr(0, complete), text);
  held_.erase(0, complete);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_lossy(held_, text);
  held_.clear();
  return text;
}

}  // namespace guildhall
