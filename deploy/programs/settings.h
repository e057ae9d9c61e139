// settings.h: the configuration message as the options of each part. Pure; the only place that knows both.
#pragma once

#include "deploy/programs/kv_memory.h"
#include "experts/cold_experts.h"
#include "model/weights.h"
#include "proto/config.pb.h"
#include "router/engine.h"
#include "router/front_end.h"
#include "router/http/server.h"
#include "transport/make_exchange.h"
#include "transport/tail_pool.h"

namespace guildhall {

// Sets the instruction set the kernels use; refuses one this processor lacks.
Result<void> apply_isa(const config::Config& config);

// The other routers of the file, unless requests stay where they come to.
PeerOptions peer_options(const config::Config& config);
// All of them, as far as their port is known.
std::vector<PeerOptions::Peer> other_routers(const config::Config& config);
HttpServerOptions http_options(const config::Config& config, const ModelSpec& spec, int64_t max_model_len);
SlotOptions slot_options(const config::Config& config);
// Borrows tails, which outlive the exchange.
ExchangeOptions exchange_options(const config::Config& config, const std::string& name,
                                 TailPool* tails = nullptr);
// Of the device whose rows shall cross from its memory (transport.ucx.gpu_rows); null: none shall.
std::unique_ptr<TailPool> tail_pool(const config::Config& config, DeviceMemory& device);
TeamOptions team_options(const config::Config& config,
                         int threads);  // threads 0: the cores this process may use
// Of the dense layers; of each rank, where there are several.
TeamOptions dense_team_options(const config::Config& config);
// Of each replica: where its threads run. One replica may use every core: empty.
std::vector<std::vector<int>> replica_cores(const config::Config& config);
// Of each rank of tensor parallelism: where its threads run. One rank may use every core: empty.
std::vector<std::vector<int>> rank_cores(const config::Config& config);
// "r0/1", or "r0" where there is one replica.
std::string replica_name(const config::Config& config, int replica);
// The device that key `key` asks for, and a log line that says what it is. The error names the key.
Result<std::unique_ptr<Ops>> open_device(std::string_view key, const std::string& device, TeamOptions team);
// The key that decides where `worker`, one of the configuration's, runs.
std::string device_key(const config::Config& config, const config::Worker& worker);
double part(int64_t millionths);
LoadMode load_mode(const config::Config& config);
OffloadMode offload_mode(const config::Config& config);
// Of a worker: the most its experts may take together, wherever they are; 0: no limit.
int64_t holding_limit(const config::Config& config, const config::Worker& worker);
RowCodecs row_codecs(const config::Worker& worker);
std::vector<RowCodecs> worker_codecs(const config::Config& config);  // of all of them, in their order
Combine combine_mode(const config::Config& config);

// max_model_len 0 in the configuration: the checkpoint's, or as much as the cache memory holds.
Result<int64_t> max_model_len(const config::Config& config, const ModelSpec& spec);
// Refuses a step so large that one worker's answer would be beyond a frame's limit (proto/exchange.h).
Result<void> check_frame_size(const config::Config& config, const ModelSpec& spec);
KvMemoryRule kv_memory_rule(const config::Config& config);  // of all replicas together
// Of one replica.
KvCacheOptions kv_cache_options(const config::Config& config, int64_t max_model_len);
// How an expert's replicas share its tokens.
ReplicaRules replica_rules(const config::Config& config);
EngineOptions engine_options(const config::Config& config, const ModelSpec& spec, int64_t max_model_len);
FrontEndOptions front_end_options(const config::Config& config);

}  // namespace guildhall
