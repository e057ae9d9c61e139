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

json::value read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return json::parse(text.str());
}

void read_routing(const json::value& routing, GoldenCase& golden) {
  for (const json::value& prompt : routing.at("prompts").as_array())
    for (const json::value& position : prompt.at("experts").as_array())
      for (const json::value& layer : position.as_array())
        for (const uint16_t id : numbers<uint16_t>(layer))
          golden.prompts[prompt.at("index").to_number<size_t>()].experts.push_back(id);
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
  const json::value root = read_json(folder / "expected.json");
  GoldenCase golden{.name = folder.filename(), .path = folder};
  golden.tolerance = root.at("weights").as_string() == "float32" ? 1e-3f : 2e-2f;
  for (const json::value& prompt : root.at("prompts").as_array())
    golden.prompts.push_back(read_prompt(prompt));
  if (exists(folder / "routing.json")) read_routing(read_json(folder / "routing.json"), golden);
  return golden;
}

}  // namespace guildhall
