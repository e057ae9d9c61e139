#include "model/tokenizer/byte_tokenizer.h"

#include <boost/json.hpp>
#include <string>

#include "model/tokenizer/byte_level.h"

namespace guildhall {

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  namespace json = boost::json;
  json::object vocab;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    std::string spelled;
    append_byte_level({&c, 1}, spelled);
    vocab[spelled] = byte;
  }
  const json::object byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json::object file{{"added_tokens", json::array()},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", byte_level},
                          {"post_processor", nullptr},
                          {"decoder", byte_level},
                          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
  return Tokenizer::parse(json::serialize(file), "{}").value();
}

}  // namespace guildhall
