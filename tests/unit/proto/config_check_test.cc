#include "proto/config_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::HasSubstr;

config::Config two_workers() {
  config::Config config;
  config.mutable_model()->set_path("/m");
  config.mutable_router()->set_name("r0");
  config.mutable_router()->mutable_http()->set_listen("127.0.0.1:8000");
  config.mutable_transport()->set_kind("ucx");
  for (const char* name : {"w0", "w1"}) {
    auto& worker = *config.mutable_experts()->add_workers();
    worker.set_name(name);
    worker.set_address(std::string("10.0.0.1:700") + name[1]);
  }
  return config;
}

void expect_problem(const config::Config& config, const std::string& key, const std::string& message) {
  const auto problems = check_config(config);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].key, key);
  EXPECT_THAT(problems[0].message, HasSubstr(message));
}

TEST(ConfigCheck, AGoodConfigurationHasNoProblems) { EXPECT_TRUE(check_config(two_workers()).empty()); }

TEST(ConfigCheck, NamesAreUniqueAmongWorkersAndRouter) {
  auto config = two_workers();
  config.mutable_experts()->mutable_workers(1)->set_name("w0");
  expect_problem(config, "experts.workers[1].name", "'w0' is also the name in experts.workers[0].name");
  config.mutable_experts()->mutable_workers(1)->set_name("r0");
  expect_problem(config, "experts.workers[1].name", "router.name");
}

TEST(ConfigCheck, WhatIsSpilledMustBeFound) {
  auto config = two_workers();
  auto& cache = *config.mutable_router()->mutable_kv_cache();
  cache.mutable_spill()->set_path("/nvme");
  EXPECT_TRUE(check_config(config).empty());
  cache.set_prefix_caching("false");
  expect_problem(config, "router.kv_cache.spill.path", "set router.kv_cache.prefix_caching to true");
}

TEST(ConfigCheck, OffloadingNeedsAMemoryLimit) {
  auto config = two_workers();
  config.mutable_experts()->mutable_offload()->set_mode("none");
  EXPECT_TRUE(check_config(config).empty());
  config.mutable_experts()->mutable_offload()->set_mode("disk");
  config.mutable_experts()->mutable_workers(0)->set_memory_bytes(1 << 20);
  expect_problem(config, "experts.workers[1].memory", "say how much of worker 'w1'");
  config.mutable_experts()->mutable_workers(1)->set_memory_bytes(1 << 20);
  EXPECT_TRUE(check_config(config).empty());
  config.mutable_experts()->mutable_offload()->set_mode("host");
  EXPECT_TRUE(check_config(config).empty()) << "a GPU may be there";
  config.mutable_experts()->mutable_workers(0)->set_device("cpu");
  expect_problem(config, "experts.offload.mode", "disk is what works there");
}

TEST(ConfigCheck, RoutersOfAListHaveNamesAndAddressesOfTheirOwn) {
  auto config = two_workers();
  for (const char* name : {"r0", "r1"}) {
    auto& router = *config.add_routers();
    router.set_name(name);
    router.set_listen(std::string("127.0.0.1:800") + name[1]);
  }
  EXPECT_TRUE(check_config(config).empty()) << "they stand for `router`, whose name and address are not used";
  auto& second = *config.mutable_routers(1);
  second.set_listen("127.0.0.1:8000");
  expect_problem(config, "routers[1].listen", "also the address in routers[0].listen");
  second.set_listen("10.0.0.1:7001");
  expect_problem(config, "experts.workers[1].address", "also the address in routers[1].listen");
  second.set_listen("");
  expect_problem(config, "routers[1].listen", "router 'r1' needs the HOST:PORT of its API");
  second.set_listen("127.0.0.1:8001");
  second.set_name("r0");
  expect_problem(config, "routers[1].name", "'r0' is also the name in routers[0].name");
  second.set_name("w1");
  expect_problem(config, "experts.workers[1].name", "'w1' is also the name in routers[1].name");
  second.set_name("");
  expect_problem(config, "routers[1].name", "missing");
  second.set_name("r1");
  while (config.routers_size() < 65) {
    auto& router = *config.add_routers();
    router.set_name("more" + std::to_string(config.routers_size()));
    router.set_listen("127.0.0.1:0");
  }
  expect_problem(config, "routers", "65 routers are more than 64");
}

TEST(ConfigCheck, AddressesAreUniqueAndWellFormed) {
  auto config = two_workers();
  auto& worker = *config.mutable_experts()->mutable_workers(1);
  worker.set_address("10.0.0.1:7000");
  expect_problem(config, "experts.workers[1].address", "also the address in experts.workers[0].address");
  worker.set_address("127.0.0.1:8000");
  expect_problem(config, "experts.workers[1].address", "router.http.listen");
  worker.set_address("10.0.0.1");
  expect_problem(config, "experts.workers[1].address", "it has no port");
  worker.set_address("10.0.0.1:0");
  expect_problem(config, "experts.workers[1].address", "port 0");
  worker.set_address("");
  expect_problem(config, "experts.workers[1].address", "worker 'w1' needs");
  config.mutable_transport()->set_kind("loopback");
  EXPECT_TRUE(check_config(config).empty());
}

TEST(ConfigCheck, NamesGoIntoLogLinesSoTheyArePlain) {
  auto config = two_workers();
  for (const std::string& bad :
       {std::string("w 1"), std::string("w\n1"), std::string("w=1"), std::string(64, 'w')}) {
    config.mutable_experts()->mutable_workers(1)->set_name(bad);
    expect_problem(config, "experts.workers[1].name", "is not a name");
  }
}

TEST(ConfigCheck, DevicesAreTheCpuAndGpusByNumber) {
  auto config = two_workers();
  for (const char* good : {"auto", "cpu", "cuda", "cuda:0", "cuda:17"}) {
    config.mutable_router()->mutable_dense()->set_device(good);
    config.mutable_experts()->set_device(good);
    config.mutable_experts()->mutable_workers(1)->set_device(good);
    EXPECT_TRUE(check_config(config).empty()) << good;
  }
  for (const char* bad : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "CUDA"}) {
    config.mutable_router()->mutable_dense()->set_device(bad);
    expect_problem(config, "router.dense.device", "there are auto, cpu, cuda and cuda:N");
  }
  config.mutable_router()->mutable_dense()->set_device("auto");
  config.mutable_experts()->mutable_workers(1)->set_device("gpu");
  expect_problem(config, "experts.workers[1].device", "'gpu' is not a device");
}

TEST(ConfigCheck, AMarginOfAllOfAGpuIsRefused) {
  auto config = two_workers();
  config.mutable_router()->mutable_kv_cache()->set_memory_margin_millionths(999'999);
  EXPECT_TRUE(check_config(config).empty());
  config.mutable_router()->mutable_kv_cache()->set_memory_margin_millionths(1'000'000);
  expect_problem(config, "router.kv_cache.memory_margin", "leaves nothing to use");
  config.mutable_router()->mutable_kv_cache()->set_memory_margin_millionths(0);
  config.mutable_experts()->set_memory_margin_millionths(1'000'000);
  expect_problem(config, "experts.memory_margin", "leaves nothing to use");
}

TEST(ConfigCheck, APartOfAGpusMemoryNeedsAGpu) {
  auto config = two_workers();
  config.mutable_router()->mutable_kv_cache()->set_memory_fraction_millionths(900'000);
  EXPECT_TRUE(check_config(config).empty());
  config.mutable_router()->mutable_dense()->set_device("cpu");
  expect_problem(config, "router.kv_cache.memory_fraction", "router.dense.device is cpu");
  config::RouterOfList& own = *config.add_routers();
  own.set_name("r1"), own.set_listen("127.0.0.1:7999"), own.set_device("cuda");
  EXPECT_TRUE(check_config(config).empty());
  own.set_device("cpu");
  expect_problem(config, "router.kv_cache.memory_fraction", "routers[0].device is cpu");
}

TEST(ConfigCheck, ReplicasAndRanksDoNotGoTogether) {
  auto config = two_workers();
  config.mutable_router()->mutable_dense()->set_data_parallel(2);
  EXPECT_TRUE(check_config(config).empty());
  config.mutable_router()->mutable_dense()->set_tensor_parallel(2);
  expect_problem(config, "router.dense.data_parallel", "2 replicas of 2 ranks");
}

TEST(ConfigCheck, AClusterNeedsAModelAndWorkers) {
  auto config = two_workers();
  config.mutable_model()->clear_path();
  expect_problem(config, "model.path", "missing");
  config = two_workers();
  config.mutable_experts()->clear_workers();
  expect_problem(config, "experts.workers", "list at least one worker");
}

}  // namespace
}  // namespace guildhall
