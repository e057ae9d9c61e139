#include "proto/config_diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/config.pb.h"
#include "proto/config_yaml.h"

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr const char* kWorkers =
    "model: {path: /m}\nexperts: {workers: [{name: w0, address: \"a:1\"}, {name: w1, address: \"a:2\"}]}\n";

config::Config parse(const std::string& more) { return parse_config(kWorkers + more, "g.yaml").value(); }

TEST(ConfigDiff, NamesKeysAndValuesAsYamlWritesThem) {
  const config::Config from = parse("");
  EXPECT_THAT(diff_config(from, from), IsEmpty());
  const config::Config to = parse(
      "balance: {interval: 1500ms, policy: eplb, min_gain: 0.1, max_bytes: 1GiB}\nlog: {level: debug}\n");
  EXPECT_THAT(diff_config(from, to), ElementsAre(ConfigChange{"balance.policy", "static", "eplb"},
                                                 ConfigChange{"balance.interval", "30s", "1500ms"},
                                                 ConfigChange{"balance.min_gain", "0.05", "0.1"},
                                                 ConfigChange{"balance.max_bytes", "64GiB", "1GiB"},
                                                 ConfigChange{"log.level", "info", "debug"}));
  EXPECT_EQ(to_string(diff_config(from, to)[1]), "balance.interval: 30s -> 1500ms");
}

TEST(ConfigDiff, FindsWhatDiffersInLists) {
  config::Config to = parse("");
  to.mutable_experts()->mutable_workers(1)->set_address("b:2");
  EXPECT_THAT(diff_config(parse(""), to),
              ElementsAre(ConfigChange{"experts.workers[1].address", "a:2", "b:2"}));
  to.mutable_experts()->mutable_workers()->RemoveLast();
  EXPECT_THAT(diff_config(parse(""), to),
              ElementsAre(ConfigChange{"experts.workers", "2 entries", "1 entries"}));
  to = parse("");
  to.mutable_model()->clear_name();
  EXPECT_EQ(to_string(diff_config(parse(""), to)[0]), "model.name: m -> (nothing)");
}

}  // namespace
}  // namespace guildhall
