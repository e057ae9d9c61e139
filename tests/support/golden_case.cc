#include "tests/support/golden_case.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace guildhall {
namespace {

namespace json = boost::json;

// Tests that were packed for another machine (tests/gpu/pack) are told where their data went.
std::filesystem::path data_folder() {
  const char* moved = std::getenv("GUILDHALL_SOURCE_DIR");
  return std::filesystem::path(moved ? moved : GUILDHALL_SOURCE_DIR) / "tests/golden/data";
}

template <class T>
std::vector<T> numbers(const json::value& array) {
  std::vector<T> out;
  for (const json::value& v : array.as_array())
    if (!v.is_null()) out.push_back(v.to_number<T>());
  return out;
}

GoldenPrompt read_prompt(const json::value& v) {
  return {.ids = numbers<int32_t>(v.at("ids")),
          .logprobs = numbers<float>(v.at("logprobs")),
          .top5_ids = numbers<int32_t>(v.at("top5").at("ids")),
          .top5_logprobs = numbers<float>(v.at("top5").at("logprobs")),
          .greedy_ids = numbers<int32_t>(v.at("greedy").at("ids")),
          .greedy_logprobs = numbers<float>(v.at("greedy").at("logprobs")),
          .greedy_margins = numbers<float>(v.at("greedy").at("margins"))};
}

}  // namespace

std::vector<std::string> golden_case_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(data_folder()))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

GoldenCase read_golden_case(const std::string& name) { return read_golden_case(data_folder() / name); }

GoldenCase read_golden_case(const std::filesystem::path& folder) {
  std::ifstream file(folder / "expected.json");
  std::stringstream text;
  text << file.rdbuf();
  const json::value root = json::parse(text.str());
  GoldenCase golden{.name = folder.filename(), .path = folder};
  golden.tolerance = root.at("weights").as_string() == "float32" ? 1e-3f : 2e-2f;
  for (const json::value& prompt : root.at("prompts").as_array())
    golden.prompts.push_back(read_prompt(prompt));
  return golden;
}

}  // namespace guildhall
