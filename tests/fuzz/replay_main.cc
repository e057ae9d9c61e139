// replay_main.cc: runs a fuzz target without a fuzzing engine: each file of a corpus, then N mutations of
// them. The mutations come from a fixed seed, so a failure is found again; where GUILDHALL_FUZZ_SAVE names a
// file, each input is written there before it runs, and the last one is the one that crashed.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kMaxInputBytes = 1 << 16;

std::vector<std::string> read_corpus(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> inputs;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return inputs;
}

class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus), random_(1) {}

  std::string next() {
    std::string input = corpus_[below(corpus_.size())];
    for (size_t edits = 1 + below(3); edits > 0; --edits) edit(input);
    if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
    return input;
  }

 private:
  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }

  void edit(std::string& input) {
    // Numbers and brackets at the edges of what parsers accept.
    static const std::vector<std::string> tokens{"0",
                                                 "-1",
                                                 "1e999",
                                                 "18446744073709551615",
                                                 "9223372036854775807",
                                                 "-9223372036854775808",
                                                 "null",
                                                 "true",
                                                 "[]",
                                                 "{}",
                                                 "\"",
                                                 "[[[[[[[[",
                                                 "\\u0000",
                                                 "\\ud800",
                                                 "\xff",
                                                 std::string(8, '\xff'),
                                                 std::string(4, '\0')};
    const size_t at = below(input.size() + 1);
    switch (below(9)) {
      case 0:
        if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 1:
        if (at < input.size()) input[at] = static_cast<char>(below(256));
        break;
      case 2:
        input.erase(at, 1 + below(8));
        break;
      case 3:
        input.insert(at, tokens[below(tokens.size())]);
        break;
      case 4:
        input.resize(at);
        break;
      case 5:
        input.insert(at, input.substr(below(input.size() + 1), below(64)));
        break;
      default:
        replace_number(input, at, tokens[below(tokens.size())]);
    }
  }

  // The first run of digits at or after `at` becomes `token`.
  static void replace_number(std::string& input, size_t at, const std::string& token) {
    const size_t begin = input.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    const size_t end = std::min(input.find_first_not_of("0123456789", begin), input.size());
    input.replace(begin, end - begin, token);
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_;
};

void run(const std::string& input) {
  if (const char* path = std::getenv("GUILDHALL_FUZZ_SAVE")) std::ofstream(path, std::ios::binary) << input;
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER MUTATIONS\n", argv[0]);
    return 2;
  }
  const std::vector<std::string> corpus = read_corpus(argv[1]);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no inputs\n", argv[1]);
    return 2;
  }
  for (const std::string& input : corpus) run(input);
  const long mutations = std::strtol(argv[2], nullptr, 10);
  Mutator mutator(corpus);
  for (long i = 0; i < mutations; ++i) run(mutator.next());
  std::printf("%zu inputs and %ld mutations\n", corpus.size(), mutations);
  return 0;
}
