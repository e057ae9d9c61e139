#include "deploy/programs/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/affinity.h"
#include "deploy/programs/other_ranks.h"
#include "kernels/isa.h"
#include "kernels/make_ops.h"
#include "tests/unit/router/specs.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

config::Config make_config() {
  config::Config config;
  config.mutable_model()->set_name("tiny");
  auto& router = *config.mutable_router();
  auto& http = *router.mutable_http();
  http.set_listen("127.0.0.1:8123"), http.set_threads(3), http.set_max_body_bytes(4096),
      http.set_max_connections(17);
  http.set_read_timeout_us(1'500'000), http.set_write_timeout_us(2'000'000),
      http.set_idle_timeout_us(3'000'000);
  router.mutable_dense()->set_threads(2), router.mutable_dense()->set_isa("auto");
  router.mutable_dense()->set_tensor_parallel(1);
  auto& cache = *router.mutable_kv_cache();
  cache.set_swap_bytes(3 << 20);
  cache.set_block_size(4), cache.set_memory_bytes(1 << 20), cache.set_dtype("bf16");
  auto& batching = *router.mutable_batching();
  batching.set_max_sequences(5), batching.set_max_batched_tokens(96), batching.set_max_waiting(7);
  auto& transport = *config.mutable_transport();
  transport.set_combine("exact"), transport.set_wait("adaptive");
  for (const char* out : {"bf16", "fp8"}) {
    config::Worker& worker = *config.mutable_experts()->add_workers();
    worker.set_dispatch_codec(out), worker.set_combine_codec("bf16");
    worker.set_speed_millionths(1'500'000), worker.set_host(out);
  }
  transport.set_deadline_us(250'000), transport.set_recovery_timeout_us(9'000'000);
  transport.mutable_ucx()->set_tls("tcp"), transport.mutable_ucx()->set_net_devices("lo");
  config.mutable_balance()->set_replica_choice("auto");
  return config;
}

TEST(Settings, HttpOptions) {
  const HttpServerOptions options = http_options(make_config(), tiny_gqa_spec(), 48);
  EXPECT_EQ(options.listen, "127.0.0.1:8123");
  EXPECT_EQ(options.num_threads, 3);
  EXPECT_EQ(options.max_connections, 17);
  EXPECT_EQ(options.max_body_bytes, 4096u);
  EXPECT_EQ(options.read_timeout, std::chrono::milliseconds(1500));
  EXPECT_EQ(options.write_timeout, std::chrono::seconds(2));
  EXPECT_EQ(options.idle_timeout, std::chrono::seconds(3));
  EXPECT_EQ(options.model_name, "tiny");
  EXPECT_EQ(options.max_model_len, 48);
  EXPECT_EQ(options.vocab_size, 32);
}

TEST(Settings, EngineOptions) {
  const EngineOptions options = engine_options(make_config(), tiny_gqa_spec(), 48);
  EXPECT_EQ(options.scheduler.max_sequences, 5);
  EXPECT_EQ(options.scheduler.max_batched_tokens, 96);
  EXPECT_EQ(options.dispatcher.combine, Combine::exact);
  ASSERT_EQ(options.dispatcher.codecs_w.size(), 2u);
  EXPECT_EQ(options.dispatcher.codecs_w[0].dispatch, Codec::bf16);
  EXPECT_EQ(options.dispatcher.codecs_w[1].dispatch, Codec::fp8);
  EXPECT_EQ(options.dispatcher.codecs_w[1].combine, Codec::bf16);
  EXPECT_EQ(options.dispatcher.hidden, 16);
  EXPECT_EQ(options.dispatcher.top_k, 2);
  EXPECT_EQ(options.dispatcher.max_tokens, 96);
  EXPECT_EQ(options.dispatcher.deadline, std::chrono::milliseconds(250));
  EXPECT_EQ(options.max_waiting, 7);
  EXPECT_EQ(options.max_model_len, 48);
  EXPECT_EQ(options.recovery_timeout, std::chrono::seconds(9));
  EXPECT_FALSE(options.spill);
}

TEST(Settings, ReplicasShareTheSpillFileAndItsBuffers) {
  config::Config config = make_config();
  auto& spill = *config.mutable_router()->mutable_kv_cache()->mutable_spill();
  spill.set_path("/nvme"), spill.set_size_bytes(6 << 20), spill.set_buffer_bytes(4 << 20);
  config.mutable_router()->mutable_dense()->set_data_parallel(2);
  const EngineOptions options = engine_options(config, tiny_gqa_spec(), 48);
  ASSERT_TRUE(options.spill);
  EXPECT_EQ(options.spill->folder, "/nvme");
  EXPECT_EQ(options.spill->size_bytes, 3 << 20);
  EXPECT_EQ(options.spill->buffer_bytes, 2 << 20);
}

TEST(Settings, RanksAndReplicasHaveCoresOfTheirOwn) {
  config::Config config = make_config();
  config::Dense& dense = *config.mutable_router()->mutable_dense();
  const std::vector<std::vector<int>> anywhere(1), halves = split_cores(usable_cores(), 2);
  dense.set_data_parallel(1);
  EXPECT_EQ(rank_cores(config), anywhere);
  EXPECT_EQ(replica_cores(config), anywhere);
  dense.set_tensor_parallel(2);
  EXPECT_EQ(rank_cores(config), halves);
  EXPECT_EQ(replica_cores(config), anywhere);
  dense.set_tensor_parallel(1), dense.set_data_parallel(2);
  EXPECT_EQ(rank_cores(config), anywhere);
  EXPECT_EQ(replica_cores(config), halves);
}

TEST(Settings, ReplicasShareTokensByLoadWhereBitsDoNotDependOnIt) {
  config::Config config = make_config();
  config.mutable_router()->set_host("fp8");  // where the second worker is
  ReplicaRules rules = replica_rules(config);
  EXPECT_EQ(rules.choice, ReplicaChoice::least_loaded);
  EXPECT_EQ(rules.speed_w, std::vector<double>(2, 1.5));
  EXPECT_EQ(rules.distance_w, (std::vector<int32_t>{2, 1}));
  config.mutable_transport()->set_combine("reduced");
  EXPECT_EQ(replica_rules(config).choice, ReplicaChoice::hash);
  config.mutable_balance()->set_replica_choice("nearest");
  EXPECT_EQ(replica_rules(config).choice, ReplicaChoice::nearest);
  config.mutable_transport()->set_kind("loopback");
  EXPECT_EQ(replica_rules(config).distance_w, std::vector<int32_t>(2, 0));
}

TEST(Settings, MicroBatches) {
  for (const auto& [written, meant] :
       {std::pair{"auto", MicroBatches::automatic}, std::pair{"1", MicroBatches::one},
        std::pair{"2", MicroBatches::two}}) {
    config::Config config = make_config();
    config.mutable_router()->mutable_batching()->set_micro_batches(written);
    EXPECT_EQ(engine_options(config, tiny_gqa_spec(), 48).micro_batches, meant) << written;
  }
}

TEST(Settings, KvCacheOptions) {
  const KvCacheOptions options = kv_cache_options(make_config(), 48);
  EXPECT_EQ(options.block_size, 4);
  EXPECT_EQ(options.memory_bytes, 1 << 20);
  EXPECT_EQ(options.dtype, DType::bf16);
  EXPECT_EQ(options.max_model_len, 48);
  EXPECT_EQ(options.max_tokens, 5 * 48);
  EXPECT_EQ(options.swap_bytes, 3 << 20);
  for (const auto& [written, meant] :
       {std::pair{"f32", DType::f32}, std::pair{"fp8", DType::e4m3}, std::pair{"int8", DType::int8}}) {
    config::Config config = make_config();
    config.mutable_router()->mutable_kv_cache()->set_dtype(written);
    EXPECT_EQ(kv_cache_options(config, 48).dtype, meant) << written;
  }
}

TEST(Settings, ExchangeOptions) {
  config::Config config = make_config();
  const ExchangeOptions options = exchange_options(config, "w3");
  EXPECT_EQ(options.name, "w3");
  EXPECT_EQ(options.kind, ExchangeKind::ucx);
  EXPECT_EQ(options.ucx.tls, "tcp");
  EXPECT_EQ(options.ucx.net_devices, "lo");
  EXPECT_EQ(options.ucx.wait.mode, WaitMode::adaptive);
  config.mutable_transport()->set_wait("spin");
  EXPECT_EQ(exchange_options(config, "w3").ucx.wait.mode, WaitMode::spin);
  config.mutable_transport()->set_kind("nccl");
  config.mutable_transport()->mutable_nccl()->set_device(2);
  config.mutable_transport()->mutable_nccl()->set_min_frame_bytes(77);
  config.mutable_transport()->mutable_nccl()->set_deadline_us(5000);
  const ExchangeOptions over_nccl = exchange_options(config, "w3");
  EXPECT_EQ(over_nccl.kind, ExchangeKind::nccl);
  EXPECT_EQ(over_nccl.nccl.device, 2);
  EXPECT_EQ(over_nccl.nccl.min_frame_bytes, 77u);
  EXPECT_EQ(over_nccl.nccl.deadline, std::chrono::milliseconds(5));
  EXPECT_FALSE(over_nccl.nccl.is_hub);
}

TEST(Settings, TeamsSpinLongerWhereTransportsDo) {
  config::Config config = make_config();
  const TeamOptions adaptive = team_options(config, 4);
  EXPECT_EQ(adaptive.num_threads, 4);
  EXPECT_GE(team_options(config, 0).num_threads, 1);
  config.mutable_transport()->set_wait("spin");
  EXPECT_GT(team_options(config, 4).spin_ns, adaptive.spin_ns);
}

TEST(Settings, RanksShareTheCoresAndHaveNeighbouringGpus) {
  config::Config config = make_config();
  config::Dense& dense = *config.mutable_router()->mutable_dense();
  dense.set_tensor_parallel(2);
  EXPECT_EQ(dense_team_options(config).num_threads, 2);  // as asked, each
  dense.set_threads(0);
  EXPECT_EQ(dense_team_options(config).num_threads, std::max(1, team_options(config, 0).num_threads / 2));
  using ::testing::ElementsAre;
  EXPECT_THAT(rank_devices("cuda:2", 3, true), ElementsAre("cuda:2", "cuda:3", "cuda:4"));
  EXPECT_THAT(rank_devices("cpu", 2, true), ElementsAre("cpu", "cpu"));
  EXPECT_THAT(rank_devices("auto", 2, false), ElementsAre("cpu", "cpu"));
  EXPECT_THAT(rank_devices("auto", 1, false), ElementsAre("auto"));
}

TEST(Settings, TheContextIsWhatTheRankWithMostKeysHolds) {
  config::Config config = make_config();
  config.mutable_router()->mutable_kv_cache()->set_memory_bytes(2048 * 24);
  const int64_t alone = max_model_len(config, tiny_gqa_spec()).value();  // two key heads
  config.mutable_router()->mutable_dense()->set_tensor_parallel(2);      // one each
  EXPECT_GE(max_model_len(config, tiny_gqa_spec()).value(), alone);
  EXPECT_EQ(widest_shard(config, tiny_gqa_spec())->kv_heads.size(), 1);
  config.mutable_router()->mutable_dense()->set_tensor_parallel(5);
  EXPECT_THAT(max_model_len(config, tiny_gqa_spec()).error().message,
              HasSubstr("router.dense.tensor_parallel: 5 ranks cannot share the model's 4 attention heads"));
}

TEST(Settings, ADeviceThatIsNotThereNamesTheKeyAndWhatWouldDo) {
  EXPECT_EQ((*open_device("experts.device", "cpu", {}))->memory().name(), "cpu");
  const auto refused = open_device("router.dense.device", "cuda:99", {});
  ASSERT_TRUE(refused.has_error());
  EXPECT_THAT(refused.error().message, HasSubstr("router.dense.device: cuda:99: this "));
  EXPECT_THAT(refused.error().message, HasSubstr("use cpu"));
}

TEST(Settings, AWorkersDeviceIsItsOwnOrThatOfAll) {
  config::Config config;
  config.mutable_experts()->set_device("cpu");
  config::Worker worker;
  worker.set_name("w0");
  worker.set_device("cpu");
  EXPECT_EQ(device_key(config, worker), "experts.device");
  worker.set_device("cuda:1");
  EXPECT_EQ(device_key(config, worker), "device of experts.workers 'w0'");
}

TEST(Settings, KvMemoryOfAGpu) {
  config::Config config = make_config();
  config.mutable_router()->mutable_kv_cache()->set_memory_margin_millionths(250'000);
  EXPECT_EQ(kv_memory_rule(config).margin, 0.25);
  EXPECT_FALSE(kv_memory_rule(config).fraction.has_value());
  config.mutable_router()->mutable_kv_cache()->set_memory_fraction_millionths(850'000);
  EXPECT_EQ(kv_memory_rule(config).fraction, 0.85);
}

TEST(Settings, WordsBecomeModes) {
  config::Config config = make_config();
  EXPECT_EQ(load_mode(config), LoadMode::checkpoint);
  config.mutable_model()->set_load("dummy");
  EXPECT_EQ(load_mode(config), LoadMode::dummy);
  config::Worker& worker = *config.mutable_experts()->mutable_workers(0);
  worker.set_dispatch_codec("f32");
  EXPECT_EQ(row_codecs(worker).dispatch, Codec::f32);
  EXPECT_EQ(row_codecs(worker).combine, Codec::bf16);
  EXPECT_EQ(combine_mode(config), Combine::exact);
  config.mutable_transport()->set_combine("reduced");
  EXPECT_EQ(combine_mode(config), Combine::reduced);
}

TEST(Settings, MaxModelLenIsTheConfigurationsWithinTheCheckpoints) {
  config::Config config = make_config();
  config.mutable_model()->set_max_model_len(40);
  EXPECT_EQ(max_model_len(config, tiny_gqa_spec()).value(), 40);
  config.mutable_model()->set_max_model_len(65);
  const Result<int64_t> refused = max_model_len(config, tiny_gqa_spec());
  ASSERT_TRUE(refused.has_error());
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("model.max_model_len: 65"), HasSubstr("64")));
}

TEST(Settings, WithoutMaxModelLenItIsWhatTheCacheHolds) {
  config::Config config = make_config();
  EXPECT_EQ(max_model_len(config, tiny_gqa_spec()).value(), 64);
  // 2 layers x 32 bf16 elements = 128 bytes per token, 512 per block of 4.
  config.mutable_router()->mutable_kv_cache()->set_memory_bytes(512 * 5 + 511);
  EXPECT_EQ(max_model_len(config, tiny_gqa_spec()).value(), 20);
}

TEST(Settings, AStepBeyondAFramesLimitIsRefusedAndSaysWhatFits) {
  ModelSpec spec = tiny_gqa_spec();
  EXPECT_TRUE(check_frame_size(make_config(), spec));
  spec.hidden = 65536, spec.moe.top_k = 64;  // 8 MiB of bf16 rows a token
  config::Config config = make_config();
  config.mutable_router()->mutable_batching()->set_max_batched_tokens(512);
  const Result<void> checked = check_frame_size(config, spec);
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().message,
              AllOf(HasSubstr("router.batching.max_batched_tokens"), HasSubstr("largest that fits: 511")));
  config.mutable_transport()->set_combine("reduced");  // one row a token comes back
  EXPECT_TRUE(check_frame_size(config, spec));
}

TEST(Settings, ApplyIsaTakesWhatTheProcessorHas) {
  const Isa before = current_isa();
  config::Config config = make_config();
  EXPECT_TRUE(apply_isa(config));
  EXPECT_EQ(current_isa(), before);
  config.mutable_router()->mutable_dense()->set_isa("portable");
  EXPECT_TRUE(apply_isa(config));
  EXPECT_EQ(to_string(current_isa()), "portable");
  set_isa(before);
  config.mutable_router()->mutable_dense()->set_isa("avx9000");
  const Result<void> refused = apply_isa(config);
  ASSERT_TRUE(refused.has_error());
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("router.dense.isa"), HasSubstr("avx9000")));
}

}  // namespace
}  // namespace guildhall
