#include "deploy/programs/plan_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "deploy/programs/plan_workspace.h"
#include "deploy/programs/settings.h"
#include "router/kv_cache.h"
#include "tests/unit/deploy/plan_fixture.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMiB = 1 << 20;

ClusterPlan plan_of(const config::Config& config, const PlannedDevices& devices) {
  return plan_memory(config, tiny_gqa_spec(), devices).value();
}
ClusterPlan plan_of(const config::Config& config) { return plan_of(config, unknown_devices(config)); }

TEST(PlanMemory, ExpertsAreDividedAsRoutersDivideThem) {
  const ClusterPlan plan = plan_of(planned_config({"", "", "", ""}));
  EXPECT_EQ(plan.num_moe_layers, 1);
  EXPECT_EQ(plan.one_expert_bytes, kExpertBytes);
  EXPECT_EQ(plan.all_experts_bytes, 6 * kExpertBytes);
  EXPECT_EQ(bytes_of(plan, "w0", "host", "experts"), 1 * kExpertBytes);
  EXPECT_EQ(bytes_of(plan, "w1", "host", "experts"), 2 * kExpertBytes);
  EXPECT_EQ(bytes_of(plan, "w1", "host", "redundant slots"), 0);
  EXPECT_TRUE(plan.fits());
  EXPECT_FALSE(plan.workers[0].usable_bytes.has_value());  // nothing is known
  EXPECT_EQ(plan.most_slots(), 4 * 6);
}

TEST(PlanMemory, RedundantExpertsTakeSlots) {
  const ClusterPlan plan = plan_of(planned_config({"", ""}, "", "balance: {redundant_experts: 4}"));
  EXPECT_EQ(plan.slots(), 10);
  EXPECT_EQ(bytes_of(plan, "w0", "host", "experts"), 3 * kExpertBytes);
  EXPECT_EQ(bytes_of(plan, "w0", "host", "redundant slots"), 2 * kExpertBytes);
}

TEST(PlanMemory, RedundantExpertsThatDoNotFitAreAProblem) {
  const std::string memory = fmt::format("memory: {}", 4 * kExpertBytes);
  const ClusterPlan plan = plan_of(planned_config({memory, memory}, "", "balance: {redundant_experts: 4}"));
  EXPECT_THAT(plan.problems, ElementsAre(HasSubstr("balance.redundant_experts: 4 asked for, 2 fit")));
  EXPECT_EQ(plan.most_slots(), 8);
}

TEST(PlanMemory, AWorkersLimitRefusesItsShareWithTheArithmetic) {
  const std::string small = fmt::format("memory: {}", 3 * kExpertBytes - 1);
  const ClusterPlan plan = plan_of(planned_config({small, "", small}));  // two each: they fit
  EXPECT_TRUE(plan.fits());
  const ClusterPlan refused = plan_of(planned_config({small, small}));
  EXPECT_THAT(refused.problems, ElementsAre(HasSubstr("6 experts in 1 layers of 768 B each need 4.5 KiB"),
                                            AllOf(HasSubstr("w0, w1: 3 experts of 768 B take 2.2 KiB"),
                                                  HasSubstr("which holds 2 of them"))));
  EXPECT_EQ(refused.most_slots(), 4);
}

TEST(PlanMemory, AMachinesMemoryHoldsEverything) {
  const config::Config config = planned_config({"", ""});
  PlannedDevices devices = unknown_devices(config);
  devices.worker_w.assign(2, {.total_bytes = 64 * kMiB, .from = "--worker-memory"});
  const ClusterPlan plan = plan_of(config, devices);
  EXPECT_TRUE(plan.fits());
  EXPECT_EQ(bytes_of(plan, "w0", "host", "receive slots"), 8 * kMiB);  // 4 of 2 MiB
  const int64_t workspace = bytes_of(plan, "w0", "host", "a step's workspace");
  EXPECT_GT(workspace, 0);
  EXPECT_EQ(*plan.workers[0].usable_bytes, 64 * kMiB - 8 * kMiB - workspace);

  devices.worker_w.assign(2, {.total_bytes = 8 * kMiB, .from = "--worker-memory"});
  const ClusterPlan refused = plan_of(config, devices);
  EXPECT_THAT(refused.problems,
              ::testing::Contains(AllOf(HasSubstr("w0 host, w1 host: experts 2.2 KiB + a step's workspace"),
                                        HasSubstr("there are 8.0 MiB (--worker-memory)"))));
}

TEST(PlanMemory, ProcessesOfOneHostShareItsMemory) {
  const config::Config config = planned_config({"", ""});
  PlannedDevices devices = unknown_devices(config);
  const PlannedDevice here{.total_bytes = 1 << 30, .from = "this host", .pool = "this host"};
  devices.router_r.assign(1, here);
  devices.worker_w.assign(2, here);
  const ClusterPlan refused = plan_of(config, devices);  // the cache alone is 1 GiB
  ASSERT_EQ(refused.pools.size(), 1u);
  EXPECT_THAT(refused.problems, ::testing::Contains(AllOf(HasSubstr("this host: r0's dense weights"),
                                                          HasSubstr("w1's receive"))));
  devices.router_r[0].total_bytes = devices.worker_w[0].total_bytes = devices.worker_w[1].total_bytes = 2ll
                                                                                                        << 30;
  const ClusterPlan plan = plan_of(config, devices);
  EXPECT_TRUE(plan.fits());
  EXPECT_EQ(*plan.routers[0].kv_room_bytes, (2ll << 30) - (plan.pools[0].needed_bytes - (1 << 30)));
  EXPECT_EQ(*plan.workers[0].usable_bytes, *plan.workers[1].usable_bytes);
}

TEST(PlanMemory, OfAGpuTheMarginStaysFree) {
  const config::Config config = planned_config({"", ""});
  PlannedDevices devices = unknown_devices(config);
  devices.worker_w.assign(2, {.is_gpu = true, .total_bytes = 1000 * kMiB, .from = "--worker-memory"});
  const ClusterPlan plan = plan_of(config, devices);
  EXPECT_EQ(bytes_of(plan, "w0", "GPU", "margin (experts.memory_margin), a step's workspace in it"),
            100 * kMiB);
  EXPECT_EQ(bytes_of(plan, "w0", "host", "receive slots"), 8 * kMiB);
  EXPECT_EQ(*plan.workers[0].usable_bytes, 900 * kMiB);
}

TEST(PlanMemory, TheCacheIsCountedInTokens) {
  // 2 layers x 32 f32 elements: 256 bytes a token.
  const ClusterPlan plan = plan_of(planned_config({""}, "kv_cache: {memory: 1MiB}"));
  EXPECT_EQ(plan.routers[0].token_bytes, 256);
  EXPECT_EQ(*plan.routers[0].capacity_tokens, kMiB / 256);
  EXPECT_EQ(bytes_of(plan, "r0", "host", "KV cache"), kMiB);
  EXPECT_FALSE(plan.routers[0].kv_room_bytes.has_value());
  config::Config longer = planned_config({""}, "kv_cache: {memory: 64KiB}");
  longer.mutable_model()->set_max_model_len(512);
  ModelSpec spec = tiny_gqa_spec();
  spec.max_position = 512;
  const ClusterPlan refused = *plan_memory(longer, spec, unknown_devices(longer));
  EXPECT_THAT(refused.problems, ElementsAre(AllOf(HasSubstr("r0: router.kv_cache.memory: 64.0 KiB holds 256"),
                                                  HasSubstr("largest context that fits: 256"))));
}

TEST(PlanMemory, AGpusCacheIsWhatItLeaves) {
  const config::Config config = planned_config({""}, "kv_cache: {memory_fraction: 0.5}");
  PlannedDevices devices = unknown_devices(config);
  devices.router_r[0] = {.is_gpu = true};
  EXPECT_FALSE(plan_of(config, devices).routers[0].capacity_tokens.has_value());  // measured at start
  devices.router_r[0].total_bytes = 1000 * kMiB;
  const ClusterPlan plan = plan_of(config, devices);
  const int64_t used =
      bytes_of(plan, "r0", "GPU", "dense weights") + bytes_of(plan, "r0", "GPU", "a step's workspace");
  EXPECT_EQ(*plan.routers[0].capacity_tokens, (500 * kMiB - used) / (256 * 16) * 16);
  EXPECT_TRUE(plan.fits());
  const auto refused = plan_memory(config, tiny_gqa_spec(), unknown_devices(config));
  EXPECT_THAT(refused.error().message, HasSubstr("router.kv_cache.memory_fraction: it is for GPUs, and r0"));
}

TEST(PlanMemory, RanksHaveTheirOwnGpus) {
  const config::Config config = planned_config({""}, "dense: {tensor_parallel: 2}, kv_cache: {memory: 1MiB}");
  PlannedDevices devices = unknown_devices(config);
  devices.router_r[0] = {.is_gpu = true, .total_bytes = 1000 * kMiB, .from = "--router-memory"};
  const ClusterPlan plan = plan_of(config, devices);
  for (const char* rank : {"r0 rank 0", "r0 rank 1"}) {
    EXPECT_EQ(bytes_of(plan, rank, "GPU", "KV cache"), kMiB);  // as asked: one key head each
    EXPECT_GT(bytes_of(plan, rank, "GPU", "dense weights"), 0);
  }
  EXPECT_EQ(plan.routers[0].token_bytes, 128);
  EXPECT_EQ(plan.routers[0].weights_bytes, bytes_of(plan, "r0 rank 0", "GPU", "dense weights") +
                                               bytes_of(plan, "r0 rank 1", "GPU", "dense weights"));
}

TEST(PlanMemory, ReplicasShareWeightsAndLinksHaveSlots) {
  const std::string two =
      "routers: [{name: a, listen: \"10.0.0.8:80\"}, {name: b, listen: \"10.0.0.9:80\"}]\n";
  const ClusterPlan one = plan_of(planned_config({"", ""}));
  const ClusterPlan plan = plan_of(planned_config({"", ""}, "dense: {data_parallel: 3}", two));
  EXPECT_EQ(bytes_of(plan, "b", "host", "dense weights"), bytes_of(one, "r0", "host", "dense weights"));
  EXPECT_EQ(bytes_of(plan, "b", "host", "a step's workspace"),
            3 * bytes_of(one, "r0", "host", "a step's workspace"));
  EXPECT_EQ(bytes_of(plan, "b", "host", "receive slots"), 3 * 2 * 8 * kMiB);   // replicas, workers
  EXPECT_EQ(bytes_of(plan, "w0", "host", "receive slots"), 3 * 2 * 8 * kMiB);  // replicas, routers
}

TEST(PlanMemory, InOneProcessThereAreNoSlots) {
  const ClusterPlan plan = plan_of(planned_config({""}, "", "transport: {kind: loopback}"));
  EXPECT_EQ(bytes_of(plan, "w0", "host", "receive slots"), 0);
  EXPECT_THAT(plan.problems, IsEmpty());
}

TEST(PlanWorkspace, IsTheBuffersOfTheLargestStep) {
  const StepShape step{.max_tokens = 10};  // f32 rows, exact
  // A row out and two answers are 16 floats each; two pairs take 12 bytes each.
  // h, grouped twice and result twice: 5 x 16; two pairs' gate and up: 4 x 8.
  EXPECT_EQ(worker_workspace_bytes(tiny_gqa_spec(), step, 3, 1),
            10 * ((16 + 2 * (2 * 16 + 2 * 8)) * 4 + 64 + 24 + 2 * 64));
  EXPECT_EQ(worker_workspace_bytes(tiny_gqa_spec(), step, 3, 2),
            2 * worker_workspace_bytes(tiny_gqa_spec(), step, 3, 1));
  EXPECT_EQ(worker_workspace_bytes(tiny_gqa_spec(), step, 0, 1), 0);
  const ModelShard whole = whole_model(tiny_gqa_spec());
  StepShape longer = step;
  longer.max_tokens = 20;
  const int64_t logits = 64 * 32 * 4;
  EXPECT_EQ(router_workspace_bytes(whole, longer) - logits,
            2 * (router_workspace_bytes(whole, step) - logits));
}

TEST(PlanMemory, ManyNamesAreShortened) {
  const std::vector<std::string> names{"w0", "w1", "w2", "w3", "w4"};
  EXPECT_EQ(list_names(std::span(names).first(4)), "w0, w1, w2, w3");
  EXPECT_EQ(list_names(names), "w0, w1, w2 and 2 more");
}

}  // namespace
}  // namespace guildhall
