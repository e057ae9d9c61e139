// oracle_test.cc: everything in cases/ prints what Jinja printed, and fails where Jinja failed
// (make_cases.py).
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/chat_template/jinja_template.h"

namespace guildhall {
namespace {

namespace json = boost::json;

std::filesystem::path folder() {
  return std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/unit/chat_template";
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

class JinjaOracle : public testing::Test {
 protected:
  void SetUp() override { setenv("TZ", "UTC", 1); }

  // Jinja saw 2025-01-02 03:04:05.
  static std::chrono::system_clock::time_point clock() {
    return std::chrono::system_clock::from_time_t(1735787045);
  }

  static void check(const json::value& each, std::string_view source) {
    SCOPED_TRACE(std::string(source) + "\n" + json::serialize(each.at("context")));
    const auto parsed = jinja::JinjaTemplate::parse(source);
    const Result<std::string> text =
        parsed ? parsed->render(each.at("context").as_object(), clock) : Result<std::string>(parsed.error());
    if (each.at("text").is_null()) {
      EXPECT_FALSE(text.has_value()) << "printed " << *text;
    } else {
      ASSERT_TRUE(text.has_value()) << text.error().message;
      EXPECT_EQ(*text, std::string(each.at("text").as_string()));
    }
  }
};

TEST_F(JinjaOracle, PrintsRandomTemplatesAlike) {
  const json::value cases = json::parse(read(folder() / "cases/generated.json"));
  ASSERT_GE(cases.as_array().size(), 2000u);
  for (const json::value& each : cases.as_array()) check(each, each.at("template").as_string());
}

TEST_F(JinjaOracle, PrintsTemplatesOfPublishedShapesAlike) {
  const json::value cases = json::parse(read(folder() / "cases/shapes.json"));
  ASSERT_GE(cases.as_array().size(), 300u);
  for (const json::value& each : cases.as_array())
    check(each, read(folder() / "templates" / std::string(each.at("template").as_string())));
}

TEST_F(JinjaOracle, ChangesListsAsAMutableSandboxDoes) {
  const json::value cases = json::parse(read(folder() / "cases/mutable.json"));
  for (const json::value& each : cases.as_array()) check(each, each.at("template").as_string());
}

}  // namespace
}  // namespace guildhall
