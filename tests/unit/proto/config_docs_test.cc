// The schema, the table of rules and docs/configuration.md say the same.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "proto/config.pb.h"
#include "proto/config_schema.h"

namespace guildhall {
namespace {

void collect(const google::protobuf::Descriptor& message, const std::string& path,
             std::set<std::string>& keys) {
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    const std::string key = path + std::string(yaml_key(field));
    if (field.message_type() != nullptr)
      collect(*field.message_type(), key + ".", keys);
    else
      keys.insert(key);
  }
}

TEST(ConfigDocs, EveryFieldHasARuleAndEveryRuleAField) {
  std::set<std::string> fields, rules;
  collect(*config::Config::descriptor(), "", fields);
  for (const KeyRule& rule : key_rules()) {
    EXPECT_TRUE(rules.insert(std::string(rule.key)).second) << rule.key << " twice";
    EXPECT_FALSE(rule.meaning.empty()) << rule.key;
  }
  EXPECT_EQ(fields, rules);
}

TEST(ConfigDocs, ThePageHoldsTheTablesOfTheRules) {
  std::ifstream file(GUILDHALL_SOURCE_DIR "/docs/configuration.md");
  std::stringstream page;
  page << file.rdbuf();
  EXPECT_THAT(page.str(), ::testing::HasSubstr(config_reference_markdown()))
      << "docs/configuration.md differs from proto/config_schema.cc; its reference should read:\n"
      << config_reference_markdown();
}

}  // namespace
}  // namespace guildhall
