// oracle_test.cc: everything in cases/ agrees with what Hugging Face's tokenizers made of it (make_cases.py).
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <sstream>

#include "model/tokenizer/tokenizer.h"

namespace guildhall {
namespace {

namespace json = boost::json;

std::filesystem::path cases_dir() {
  return std::filesystem::path(GUILDHALL_SOURCE_DIR) / "tests/unit/tokenizer/cases";
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(cases_dir()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<int32_t> ids_of(const json::value& list) { return json::value_to<std::vector<int32_t>>(list); }

std::string text_of(const json::value& value) { return std::string(value.as_string()); }

class Oracle : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::filesystem::path dir = cases_dir() / GetParam();
    tokenizer_ = Tokenizer::load(dir).value();
    std::ifstream in(dir / "cases.json");
    std::stringstream text;
    text << in.rdbuf();
    cases_ = json::parse(text.str());
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  json::value cases_;
};

TEST_P(Oracle, EncodesAlike) {
  ASSERT_GT(cases_.at("encode").as_array().size(), 100u);
  for (const json::value& row : cases_.at("encode").as_array()) {
    const std::string text = text_of(row.at(0));
    SCOPED_TRACE(testing::PrintToString(text));
    EXPECT_EQ(tokenizer_->encode(text, {.add_special_tokens = false}), ids_of(row.at(1)));
    EXPECT_EQ(tokenizer_->encode(text, {}), ids_of(row.at(2)));
    EXPECT_EQ(tokenizer_->encode(text, {.add_special_tokens = false, .parse_special_tokens = false}),
              ids_of(row.at(3)));
  }
}

TEST_P(Oracle, DecodesWhatItEncodesAlike) {
  for (const json::value& row : cases_.at("encode").as_array()) {
    const std::vector<int32_t> ids = ids_of(row.at(1));
    EXPECT_EQ(tokenizer_->decode(ids, false), text_of(row.at(4)));
    EXPECT_EQ(tokenizer_->decode(ids, true), text_of(row.at(5)));
  }
}

TEST_P(Oracle, DecodesIdsInNoOrderAlike) {
  ASSERT_GE(cases_.at("decode").as_array().size(), 30u);
  for (const json::value& row : cases_.at("decode").as_array()) {
    const std::vector<int32_t> ids = ids_of(row.at(0));
    EXPECT_EQ(tokenizer_->decode(ids, false), text_of(row.at(1)));
    EXPECT_EQ(tokenizer_->decode(ids, true), text_of(row.at(2)));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Oracle, testing::ValuesIn(case_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace guildhall
