#include "deploy/programs/hosts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kElsewhere[] = "203.0.113.7";  // reserved for documentation: no machine has it

// As the configuration reader leaves it: hosts filled in from addresses.
config::Config make_config(const std::string& router_host, const std::vector<std::string>& worker_hosts) {
  config::Config config;
  config.mutable_transport()->set_kind("ucx");
  config.mutable_router()->set_name("r0");
  config.mutable_router()->set_host(router_host);
  config.mutable_router()->mutable_http()->set_listen(router_host + ":8000");
  for (size_t i = 0; i < worker_hosts.size(); ++i) {
    auto& worker = *config.mutable_experts()->add_workers();
    worker.set_name("w" + std::to_string(i));
    worker.set_host(worker_hosts[i]);
  }
  return config;
}

HostPlan plan(const config::Config& config, const std::optional<std::string>& host = std::nullopt) {
  return plan_for_host(config, host).value();
}

TEST(InterfaceAddresses, IncludeLoopback) { EXPECT_THAT(interface_addresses(), Contains("127.0.0.1")); }

TEST(PlanForHost, LoopbackAddressesAreHere) {
  const HostPlan planned = plan(make_config("localhost", {"127.0.0.1", "127.0.5.9", "::1", kElsewhere}));
  EXPECT_EQ(planned.routers.size(), 1u);
  EXPECT_THAT(planned.workers, ElementsAre(0, 1, 2));
}

TEST(PlanForHost, TakesOnlyWhatIsHere) {
  const HostPlan worker_only = plan(make_config(kElsewhere, {kElsewhere, "127.0.0.1"}));
  EXPECT_THAT(worker_only.routers, IsEmpty());
  EXPECT_THAT(worker_only.workers, ElementsAre(1));
  const HostPlan router_only = plan(make_config("127.0.0.1", {kElsewhere, kElsewhere}));
  EXPECT_EQ(router_only.routers.size(), 1u);
  EXPECT_THAT(router_only.workers, IsEmpty());
}

TEST(PlanForHost, AGivenHostIsAWordOfTheFile) {
  const config::Config config = make_config("node-a", {"node-a", "node-b", "node-b"});
  const HostPlan a = plan(config, "node-a");
  EXPECT_EQ(a.routers.size(), 1u);
  EXPECT_THAT(a.workers, ElementsAre(0));
  const HostPlan b = plan(config, "node-b");
  EXPECT_THAT(b.routers, IsEmpty());
  EXPECT_THAT(b.workers, ElementsAre(1, 2));
  // Loopback addresses get no special treatment then.
  EXPECT_THAT(plan(make_config("127.0.0.1", {"node-b"}), "node-b").routers, IsEmpty());
}

TEST(PlanForHost, AGivenHostMayBeAProcessName) {
  const config::Config config = make_config("node-a", {"node-a", "node-b"});
  EXPECT_THAT(plan(config, "w1").workers, ElementsAre(1));
  EXPECT_THAT(plan(config, "w1").routers, IsEmpty());
  EXPECT_EQ(plan(config, "r0").routers.size(), 1u);
  EXPECT_THAT(plan(config, "r0").workers, IsEmpty());
}

TEST(PlanForHost, AWildcardRouterIsHereWhenAllWorkersAre) {
  for (const char* wildcard : {"0.0.0.0", "::", "*"})
    EXPECT_EQ(plan(make_config(wildcard, {"127.0.0.1", "localhost"})).routers.size(), 1u) << wildcard;
  const Result<HostPlan> ambiguous =
      plan_for_host(make_config("0.0.0.0", {"127.0.0.1", kElsewhere}), std::nullopt);
  ASSERT_TRUE(ambiguous.has_error());
  EXPECT_EQ(ambiguous.error().code, Code::invalid_argument);
  EXPECT_THAT(ambiguous.error().message, AllOf(HasSubstr("router.host"), HasSubstr("0.0.0.0:8000")));
  // Named by --host it is as any other.
  EXPECT_EQ(plan(make_config("0.0.0.0", {"127.0.0.1", kElsewhere}), "r0").routers.size(), 1u);
}

TEST(PlanForHost, EachRouterOfAListHasItsOwnHost) {
  config::Config config = make_config("ignored", {"127.0.0.1", kElsewhere});
  for (const char* host : {"127.0.0.1", kElsewhere, "127.0.0.1"}) {
    config::RouterOfList& router = *config.add_routers();
    router.set_name("r" + std::to_string(config.routers_size()));
    router.set_host(host);
    router.set_listen(std::string(host) + ":800" + std::to_string(config.routers_size()));
  }
  const auto names = [&](const std::optional<std::string>& host) {
    std::vector<std::string> found;
    for (const RouterOfFile& router : plan(config, host).routers) found.push_back(router.settings.name());
    return found;
  };
  EXPECT_THAT(names(std::nullopt), ElementsAre("r1", "r3"));
  EXPECT_THAT(names("r2"), ElementsAre("r2"));
  EXPECT_THAT(names(kElsewhere), ElementsAre("r2"));
  EXPECT_EQ(plan(config, "r3").routers[0].listen_key, "routers[2].listen");

  config.mutable_routers(1)->set_host("0.0.0.0");
  config.mutable_routers(1)->set_listen("0.0.0.0:8002");
  const Result<HostPlan> ambiguous = plan_for_host(config, std::nullopt);
  ASSERT_TRUE(ambiguous.has_error());
  EXPECT_THAT(ambiguous.error().message, HasSubstr("routers[1].host: routers[1].listen is 0.0.0.0:8002"));
}

TEST(PlanForHost, LoopbackWorkersLiveInTheRouter) {
  config::Config config = make_config("0.0.0.0", {"", ""});
  config.mutable_transport()->set_kind("loopback");
  EXPECT_EQ(plan(config).routers.size(), 1u);
  EXPECT_THAT(plan(config).workers, IsEmpty());
}

TEST(PlanForHost, NothingHereListsWhatTheFileNamesAndWhatThereIs) {
  const config::Config config = make_config(kElsewhere, {"203.0.113.8", "203.0.113.9"});
  const Result<HostPlan> none = plan_for_host(config, std::nullopt);
  ASSERT_TRUE(none.has_error());
  EXPECT_EQ(none.error().code, Code::not_found);
  EXPECT_THAT(none.error().message, AllOf(HasSubstr("203.0.113.7 (r0), 203.0.113.8 (w0), 203.0.113.9 (w1)"),
                                          HasSubstr("this machine has "), HasSubstr("127.0.0.1")));
  const Result<HostPlan> unknown = plan_for_host(config, "node-z");
  ASSERT_TRUE(unknown.has_error());
  EXPECT_THAT(unknown.error().message, HasSubstr("--host is node-z"));
}

}  // namespace
}  // namespace guildhall
