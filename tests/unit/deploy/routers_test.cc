// routers_test.cc: a file's routers, one or several, and the settings each of them reads.
#include "deploy/programs/routers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/config_yaml.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

config::Config parse(const std::string& routers) {
  const auto config = parse_config(
      "model: {path: /m}\n"
      "router: {name: front, http: {listen: '127.0.0.1:8000', threads: 3}, dense: {threads: 5}}\n"
      "experts: {workers: [{name: w0, address: '10.0.0.11:7000'}]}\n" +
          routers,
      "g.yaml");
  EXPECT_TRUE(config) << to_string(config.error());
  return *config;
}

constexpr const char* kTwo =
    "routers:\n"
    "  - {name: r0, listen: '10.0.0.1:8000', threads: 2}\n"
    "  - {name: r1, listen: '0.0.0.0:8001', host: gate-b}\n";

TEST(RoutersOf, AFileWithoutAListHasOneWhichNeedsNoName) {
  const config::Config config = parse("");
  ASSERT_EQ(routers_of(config).size(), 1u);
  EXPECT_EQ(routers_of(config)[0].settings.name(), "front");
  EXPECT_EQ(routers_of(config)[0].listen_key, "router.http.listen");
  for (const char* name : {"", "front"})
    EXPECT_EQ(config_of_router(config, name)->router().dense().threads(), 5);
  EXPECT_EQ(config_of_router(config, "r0").error().message,
            "the configuration has no router 'r0'; it has front");
}

TEST(RoutersOf, AListsRoutersShareTheSettingsOfRouter) {
  const config::Config config = parse(kTwo);
  const auto routers = routers_of(config);
  ASSERT_EQ(routers.size(), 2u);
  EXPECT_EQ(routers[0].settings.name(), "r0");
  EXPECT_EQ(routers[0].settings.host(), "10.0.0.1");
  EXPECT_EQ(routers[1].settings.host(), "gate-b");
  EXPECT_EQ(routers[1].host_key, "routers[1].host");

  const auto own = config_of_router(config, "r1");
  ASSERT_TRUE(own);
  EXPECT_EQ(own->router().name(), "r1");
  EXPECT_EQ(own->router().http().listen(), "0.0.0.0:8001");
  EXPECT_EQ(own->router().http().threads(), 3);
  EXPECT_EQ(own->router().dense().threads(), 5);
  ASSERT_EQ(own->routers_size(), 1);  // its peers
  EXPECT_EQ(own->routers(0).name(), "r0");
  EXPECT_EQ(own->experts().workers_size(), 1);
  EXPECT_EQ(config_of_router(config, "r0")->router().dense().threads(), 2);
}

TEST(RoutersOf, OneOfSeveralMustBeNamed) {
  const config::Config config = parse(kTwo);
  EXPECT_EQ(config_of_router(config, "").error().message,
            "the configuration has several routers: r0, r1; choose one with --name");
  EXPECT_THAT(config_of_router(config, "front").error().message,
              HasSubstr("no router 'front'; it has r0, r1"));
}

TEST(RoutersOf, OneInAListNeedsNoName) {
  const config::Config config = parse("routers: [{name: r7, listen: '10.0.0.1:8000'}]\n");
  EXPECT_EQ(config_of_router(config, "")->router().name(), "r7");
}

}  // namespace
}  // namespace guildhall
