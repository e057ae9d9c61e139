// tokenizer_tool.cc: `tokenizer_tool DIR` answers each line of stdin with one line, for differential.py.
// In:  "<add_special 0|1><parse_special 0|1> <text in hexadecimal>"
// Out: "<ids, by commas> <decoded> <decoded without special tokens> <streamed>", the texts in hexadecimal,
// each with a leading "x".
#include <fmt/format.h>

#include <iostream>
#include <string>

#include "model/tokenizer/tokenizer.h"

namespace guildhall {
namespace {

std::string to_hex(std::string_view text) {
  std::string hex = "x";
  for (const char byte : text) hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return hex;
}

std::string from_hex(std::string_view hex) {
  std::string text;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    text.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  return text;
}

int run(const char* dir) {
  const Result<std::unique_ptr<Tokenizer>> loaded = Tokenizer::load(dir);
  if (loaded.has_error()) {
    std::cerr << to_string(loaded.error()) << "\n";
    return 1;
  }
  const Tokenizer& tokenizer = **loaded;
  for (std::string line; std::getline(std::cin, line) && line.size() >= 3;) {
    const EncodeOptions options{line[0] == '1', line[1] == '1'};
    const std::vector<int32_t> ids = tokenizer.encode(from_hex(std::string_view(line).substr(3)), options);
    StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    std::cout << fmt::format("{} {} {} {}\n", fmt::join(ids, ","), to_hex(tokenizer.decode(ids, false)),
                             to_hex(tokenizer.decode(ids, true)), to_hex(streamed));
  }
  return 0;
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenizer_tool DIR, which holds tokenizer.json\n";
    return 2;
  }
  return guildhall::run(argv[1]);
}
