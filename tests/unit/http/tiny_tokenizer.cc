#include "tests/unit/http/tiny_tokenizer.h"

#include <boost/json.hpp>

namespace guildhall {
namespace {

namespace json = boost::json;

// GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up, in order.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> alphabet;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    int code_point = printable ? byte : next++;
    std::string text;
    if (code_point < 0x80) {
      text = static_cast<char>(code_point);
    } else {
      text += static_cast<char>(0xC0 | (code_point >> 6));
      text += static_cast<char>(0x80 | (code_point & 0x3F));
    }
    alphabet.push_back(text);
  }
  return alphabet;
}

json::object added_token(int id, std::string_view text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

std::unique_ptr<Tokenizer> make_tiny_tokenizer() {
  json::object vocab;
  std::vector<std::string> alphabet = byte_alphabet();
  for (int byte = 0; byte < 256; ++byte) vocab[alphabet[static_cast<size_t>(byte)]] = byte;
  vocab["he"] = kHe;
  vocab["ll"] = kLl;
  json::array merges;
  merges.push_back("h e");
  merges.push_back("l l");
  json::object model{{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"vocab", vocab},
                     {"merges", merges}};
  json::object byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  json::array added;
  added.push_back(added_token(kBos, "<s>"));
  added.push_back(added_token(kEos, "</s>"));
  json::object file{{"version", "1.0"},          {"truncation", nullptr}, {"padding", nullptr},
                    {"added_tokens", added},     {"normalizer", nullptr}, {"pre_tokenizer", byte_level},
                    {"post_processor", nullptr}, {"decoder", byte_level}, {"model", model}};
  return Tokenizer::parse(json::serialize(file), R"({"bos_token": "<s>", "eos_token": "</s>"})").value();
}

}  // namespace

const Tokenizer& tiny_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = make_tiny_tokenizer();
  return *tokenizer;
}

std::vector<int32_t> byte_ids(std::string_view text) {
  std::vector<int32_t> ids;
  for (unsigned char byte : text) ids.push_back(byte);
  return ids;
}

}  // namespace guildhall
