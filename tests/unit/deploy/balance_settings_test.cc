#include "deploy/programs/balance_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/config_yaml.h"

namespace guildhall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ModelSpec spec() {
  ModelSpec spec;
  spec.model_type = "qwen3_moe";
  spec.hidden = 1024, spec.num_layers = 3;
  spec.weight_dtype = DType::bf16;
  spec.moe = {.num_experts = 8, .top_k = 2, .expert_width = 512};
  spec.moe.gate.num_groups = 2;
  spec.is_moe_layer = {false, true, true};
  return spec;
}

config::Config parse(const std::string& more) {
  return parse_config(
             "model: {path: /m}\nexperts: {workers: [{name: w0, host: h0, speed: 2, address: \"a:1\"}, "
             "{name: w1, memory: 1GiB, address: \"a:2\"}]}\n" +
                 more,
             "g.yaml")
      .value();
}

TEST(BalanceSettings, TheSectionBecomesTheBalancersOptions) {
  const config::Config config = parse(
      "balance: {policy: incremental, mode: observe, redundant_experts: 4, window_steps: 50, interval: 2s, "
      "min_gain: 0.1, horizon: 1m, max_moves: 7, max_bytes: 1GiB, move_rate: 2GiB, move_slowdown: 0.5, "
      "repair: false}\n");
  const BalancerOptions options = balancer_options(config.balance(), spec());
  EXPECT_EQ(options.policy, Policy::incremental);
  EXPECT_TRUE(options.observe);
  EXPECT_FALSE(options.repair);
  EXPECT_EQ(options.redundant_experts, 4);
  EXPECT_EQ(options.window_steps, 50);
  EXPECT_EQ(options.interval, std::chrono::seconds(2));
  EXPECT_EQ(options.policy_options.num_groups, 2);
  EXPECT_DOUBLE_EQ(options.gate.min_gain, 0.1);
  EXPECT_DOUBLE_EQ(options.gate.horizon_s, 60);
  EXPECT_EQ(options.gate.max_moves, 7);
  EXPECT_EQ(options.gate.max_bytes, 1 << 30);
  EXPECT_DOUBLE_EQ(options.gate.move_bytes_per_s, 2.0 * (1 << 30));
  EXPECT_DOUBLE_EQ(options.gate.slowdown, 0.5);
  const std::vector<WorkerInfo> workers = worker_infos(config);
  EXPECT_EQ(workers[0].node, "h0");
  EXPECT_DOUBLE_EQ(workers[0].speed, 2);
  EXPECT_EQ(workers[1].memory_bytes, 1 << 30);
}

TEST(BalanceSettings, OfSeveralRoutersTheFirstBalances) {
  EXPECT_EQ(why_not_balancing(parse(""), "r0"), "");
  const config::Config several = parse("routers: [{name: a, listen: \"a:3\"}, {name: b, listen: \"a:4\"}]\n");
  EXPECT_EQ(why_not_balancing(several, "a"), "");
  EXPECT_THAT(why_not_balancing(several, "b"), HasSubstr("the first of routers balances: a"));
  EXPECT_THAT(why_not_balancing(parse("transport: {kind: loopback}\n"), "r0"), HasSubstr("loopback"));
}

TEST(BalanceSettings, ConfigCheckSaysWhatTheyMean) {
  EXPECT_THAT(describe_balancing(parse(""), spec()), IsEmpty());
  EXPECT_THAT(
      describe_balancing(parse("balance: {policy: eplb, redundant_experts: 4, max_moves: 16}\n"), spec()),
      ElementsAre("eplb active: 12 slots per layer on 2 workers, 8 experts; 2 layers",
                  "every 30.00 s: at most 16 experts of 3.0 MiB each move, at up to 1.0 GiB/s to each "
                  "worker; they must save 5% of the experts' time per step"));
  EXPECT_THAT(describe_balancing(parse("balance: {policy: eplb}\ntransport: {kind: loopback}\n"), spec()),
              ElementsAre(HasSubstr("policy eplb is not active: transport.kind is loopback")));
}

}  // namespace
}  // namespace guildhall
