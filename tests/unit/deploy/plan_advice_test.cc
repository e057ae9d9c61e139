#include "deploy/programs/plan_advice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/config_check.h"
#include "tests/unit/deploy/plan_fixture.h"

namespace guildhall {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMiB = 1 << 20;

PlanAdvice advice_of(const config::Config& config, const PlannedDevices& devices) {
  const ModelSpec spec = tiny_gqa_spec();
  return advise(config, spec, plan_memory(config, spec, devices).value());
}
PlanAdvice advice_of(const config::Config& config) { return advice_of(config, unknown_devices(config)); }

std::string memory_for(int64_t experts) { return fmt::format("memory: {}", experts * kExpertBytes); }

TEST(PlanAdvice, SaysHowManyWorkersWouldDo) {
  const PlanAdvice advice =
      advice_of(planned_config({memory_for(2), memory_for(2)}, "", "balance: {redundant_experts: 1}"));
  EXPECT_EQ(advice.workers_needed, 3);
  EXPECT_EQ(advice.workers_for_redundant, 4);
  EXPECT_THAT(advice.lines, Contains(HasSubstr("3 such workers hold all, 4 with the 1 redundant ones")));
}

TEST(PlanAdvice, SaysWhatCouldStayInMemory) {
  const PlanAdvice advice = advice_of(planned_config({memory_for(2), memory_for(1)}));
  EXPECT_EQ(advice.resident, 3);
  EXPECT_DOUBLE_EQ(advice.resident_share, 0.5);
  EXPECT_THAT(advice.lines, Contains(HasSubstr("3 of 6 of each layer stay in the workers' memory (50.0%)")));
  EXPECT_THAT(advice.offload_yaml, IsEmpty()) << "one expert is not enough for w1";
}

TEST(PlanAdvice, WhereNotAllFitItSaysWhatWouldServe) {
  const std::string workers =
      "experts:\n  offload: {mode: disk}\n  workers:\n"
      "    - {name: w0, address: \"10.0.0.1:7000\", memory: 1536}\n"
      "    - {name: w1, address: \"10.0.0.2:7000\", memory: 1536}\n";
  EXPECT_EQ(advice_of(planned_config({memory_for(2), memory_for(2)})).offload_yaml, workers);
  const config::Config offloading =
      parse_config("model: {path: nowhere, load: dummy, max_model_len: 64}\n" + workers, "test.yaml").value();
  const ClusterPlan plan = plan_memory(offloading, tiny_gqa_spec(), unknown_devices(offloading)).value();
  EXPECT_TRUE(plan.fits());
  EXPECT_EQ(plan.workers[0].slots, 3);
  const PlanAdvice advice = advice_of(offloading);
  EXPECT_THAT(advice.offload_yaml, IsEmpty()) << "they are";
  EXPECT_THAT(advice.lines, Contains(HasSubstr("experts are offloaded: 4 of 6 of each layer")));
}

TEST(PlanAdvice, AWorkerTooSmallForAnyExpertIsSaidSo) {
  const PlanAdvice advice = advice_of(planned_config({"memory: 100"}));
  EXPECT_EQ(advice.workers_needed, 0);
  EXPECT_THAT(advice.lines,
              Contains(HasSubstr("holds 0 experts of each of 1 layers: one of each takes 768 B")));
}

TEST(PlanAdvice, SaysWhatRoomThereIs) {
  const config::Config config = planned_config({memory_for(5), memory_for(4)});
  PlannedDevices devices = unknown_devices(config);
  devices.router_r[0] = {.total_bytes = 512 * kMiB, .from = "--router-memory"};
  const PlanAdvice advice = advice_of(config, devices);
  EXPECT_EQ(advice.redundant_fit, 3);
  EXPECT_EQ(advice.largest_context, 64);  // the checkpoint's
  EXPECT_THAT(advice.offload_yaml, IsEmpty());
  EXPECT_THAT(advice.lines, Contains(HasSubstr("redundant experts that fit: 3 of each layer")));
}

TEST(PlanAdvice, WithoutAnyMemoryItAsksForIt) {
  EXPECT_THAT(advice_of(planned_config({""})).lines, Contains(HasSubstr("--worker-memory")));
}

TEST(PlanSuggestion, FillsWhatIsKnownAndFits) {
  config::Config config = planned_config({"", ""});
  config.mutable_router()->mutable_kv_cache()->set_memory_bytes(1ll << 40);
  PlannedDevices devices = unknown_devices(config);
  devices.router_r[0] = {.total_bytes = 64 * kMiB, .from = "--router-memory"};
  devices.worker_w.assign(2, {.total_bytes = 64 * kMiB, .from = "--worker-memory"});
  const ModelSpec spec = tiny_gqa_spec();
  const ClusterPlan before = plan_memory(config, spec, devices).value();
  EXPECT_FALSE(before.fits());
  config = suggest_workers(config, spec, before);
  EXPECT_EQ(config.balance().redundant_experts(), 1);  // one for eight, rounded up
  EXPECT_EQ(config.balance().policy(), "incremental");
  EXPECT_GT(config.experts().workers(0).memory_bytes(), 5 * kExpertBytes);
  config = suggest_cache(config, spec, plan_memory(config, spec, devices).value(), devices);
  EXPECT_TRUE(plan_memory(config, spec, devices)->fits());
  EXPECT_LT(config.router().kv_cache().memory_bytes(), 64 * kMiB);
  // As a user would take it.
  EXPECT_TRUE(parse_config(describe_config(config), "suggested.yaml").has_value());
}

TEST(PlanSuggestion, AContextThatDoesNotFitIsShortened) {
  config::Config config = planned_config({""});
  ModelSpec spec = tiny_gqa_spec();
  spec.max_position = 1 << 20;
  config.mutable_model()->set_max_model_len(1 << 20);  // 256 MiB
  PlannedDevices devices = unknown_devices(config);
  devices.router_r[0] = {.total_bytes = 64 * kMiB, .from = "--router-memory"};
  const config::Config suggested =
      suggest_cache(config, spec, plan_memory(config, spec, devices).value(), devices);
  EXPECT_LT(suggested.model().max_model_len(), 64 * kMiB / 256);
  EXPECT_TRUE(plan_memory(suggested, spec, devices)->fits());
}

TEST(PlanSuggestion, OfAGpuTheRouterTakesAllButTheMargin) {
  config::Config config = planned_config({""});
  PlannedDevices devices = unknown_devices(config);
  devices.router_r[0] = {.is_gpu = true, .total_bytes = 640 * kMiB, .from = "--router-memory"};
  const ModelSpec spec = tiny_gqa_spec();
  config = suggest_cache(config, spec, plan_memory(config, spec, devices).value(), devices);
  EXPECT_EQ(config.router().kv_cache().memory_fraction_millionths(), 900'000);
  EXPECT_TRUE(plan_memory(config, spec, devices)->fits());
}

TEST(PlanSuggestion, WhatIsNotKnownStays) {
  const config::Config config = planned_config({"", "memory: 1MiB"});
  const ModelSpec spec = tiny_gqa_spec();
  const PlannedDevices devices = unknown_devices(config);
  const ClusterPlan plan = plan_memory(config, spec, devices).value();
  EXPECT_EQ(suggest_workers(config, spec, plan).experts().workers(0).memory_bytes(), 0);
  EXPECT_EQ(describe_config(suggest_cache(config, spec, plan, devices)), describe_config(config));
}

TEST(PlanWorkers, AreTakenOrMade) {
  config::Config config = planned_config({"memory: 1MiB", "memory: 2MiB"});
  config.mutable_experts()->mutable_workers(1)->set_name("w3");
  set_num_workers(config, 5);
  EXPECT_THAT(check_config(config), IsEmpty());  // names and addresses are unique
  EXPECT_EQ(config.experts().workers(4).memory_bytes(), 2 * kMiB);
  EXPECT_EQ(config.experts().workers(0).name(), "w0");
  set_num_workers(config, 1);
  EXPECT_EQ(config.experts().workers_size(), 1);
  set_num_workers(config, 600);
  EXPECT_THAT(check_config(config), IsEmpty());
}

}  // namespace
}  // namespace guildhall
