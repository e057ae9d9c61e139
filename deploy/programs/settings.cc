#include "deploy/programs/settings.h"

#include <fmt/format.h>
#include <algorithm>

#include "base/affinity.h"
#include "base/log.h"
#include "base/units.h"
#include "deploy/programs/other_ranks.h"
#include "kernels/isa.h"
#include "kernels/make_ops.h"
#include "proto/codec.h"
#include "proto/host_port.h"

namespace guildhall {
namespace {

std::chrono::milliseconds milliseconds(int64_t us) { return std::chrono::milliseconds(us / 1000); }

int num_replicas(const config::Config& config) {
  return std::max(1, config.router().dense().data_parallel());
}

std::vector<std::vector<int>> cores_of_parts(int num) {
  return num == 1 ? std::vector<std::vector<int>>(1) : split_cores(usable_cores(), num);
}

WaitOptions wait_options(const config::Config& config) {
  return {.mode = config.transport().wait() == "spin" ? WaitMode::spin : WaitMode::adaptive};
}

DType kv_dtype(const config::Config& config) {
  const std::string& name = config.router().kv_cache().dtype();
  return name == "bf16"   ? DType::bf16
         : name == "fp8"  ? DType::e4m3
         : name == "int8" ? DType::int8
                          : DType::f32;
}

MicroBatches micro_batches(const config::Config& config) {
  const std::string& asked = config.router().batching().micro_batches();
  return asked == "1" ? MicroBatches::one : asked == "2" ? MicroBatches::two : MicroBatches::automatic;
}

Codec codec(const std::string& name) {
  return name == "fp8" ? Codec::fp8 : name == "bf16" ? Codec::bf16 : Codec::f32;
}

}  // namespace

Result<void> apply_isa(const config::Config& config) {
  const std::string& name = config.router().dense().isa();
  if (name == "auto") return {};
  const auto isa = parse_isa(name);
  if (!isa || *isa > detect_isa())
    return Status{Code::unsupported, fmt::format("router.dense.isa: this processor lacks {}; it has {}", name,
                                                 to_string(detect_isa()))};
  set_isa(*isa);
  return {};
}

PeerOptions peer_options(const config::Config& config) {
  const config::FrontEnd& front_end = config.router().front_end();
  PeerOptions options{.block_size = config.router().kv_cache().block_size(),
                      .prefix_affinity = front_end.prefix_affinity(),
                      .margin = front_end.spread_margin(),
                      .interval = milliseconds(front_end.load_interval_us())};
  if (front_end.spread() != "false") options.peers = other_routers(config);
  return options;
}

std::vector<PeerOptions::Peer> other_routers(const config::Config& config) {
  std::vector<PeerOptions::Peer> routers;
  for (const config::RouterOfList& other : config.routers()) {
    const auto listen = parse_host_port(other.listen());
    if (!listen || listen->port == 0) continue;
    const bool everywhere = listen->host == "0.0.0.0" || listen->host == "::";
    routers.push_back({other.name(), {everywhere ? other.host() : listen->host, listen->port}});
  }
  return routers;
}

HttpServerOptions http_options(const config::Config& config, const ModelSpec& spec, int64_t max_model_len) {
  const config::Http& http = config.router().http();
  return {.listen = http.listen(),
          .num_threads = http.threads(),
          .max_connections = http.max_connections(),
          .max_body_bytes = http.max_body_bytes(),
          .read_timeout = milliseconds(http.read_timeout_us()),
          .write_timeout = milliseconds(http.write_timeout_us()),
          .idle_timeout = milliseconds(http.idle_timeout_us()),
          .limits = {.first_token = milliseconds(http.first_token_timeout_us()),
                     .whole = milliseconds(http.request_timeout_us())},
          .cors_origins = {http.cors_origins().begin(), http.cors_origins().end()},
          .peers = peer_options(config),
          .routers = other_routers(config),
          .model_name = config.model().name(),
          .max_model_len = static_cast<int32_t>(max_model_len),
          .vocab_size = static_cast<int32_t>(spec.vocab_size)};
}

SlotOptions slot_options(const config::Config& config) {
  const config::Slots& slots = config.transport().slots();
  return {.num = static_cast<uint32_t>(slots.count()), .bytes = static_cast<size_t>(slots.size_bytes())};
}

ExchangeOptions exchange_options(const config::Config& config, const std::string& name, TailPool* tails) {
  ExchangeOptions options{
      .kind = config.transport().kind() == "nccl" ? ExchangeKind::nccl : ExchangeKind::ucx, .name = name};
  options.ucx.tls = config.transport().ucx().tls();
  options.ucx.net_devices = config.transport().ucx().net_devices();
  options.ucx.wait = wait_options(config);
  options.ucx.slots = slot_options(config);
  if (options.kind == ExchangeKind::ucx) options.ucx.tails = tails;
  const config::Nccl& nccl = config.transport().nccl();
  options.nccl = {.device = nccl.device(),
                  .min_frame_bytes = static_cast<size_t>(nccl.min_frame_bytes()),
                  .graph_frame_bytes = static_cast<size_t>(nccl.graph_frame_bytes()),
                  .deadline = std::chrono::microseconds(nccl.deadline_us()),
                  .join_deadline = std::chrono::microseconds(nccl.join_timeout_us())};
#if defined(GUILDHALL_HAS_NCCL)
  options.open_nccl = open_nccl_exchange;
#endif
  return options;
}

std::unique_ptr<TailPool> tail_pool(const config::Config& config, DeviceMemory& device) {
  const auto differs = [&](const config::Worker& w) {
    const config::Worker& first = config.experts().workers(0);
    return w.dispatch_codec() != first.dispatch_codec() || w.combine_codec() != first.combine_codec();
  };
  const int64_t min_bytes = config.transport().ucx().gpu_rows_bytes();
  if (device.is_host() || min_bytes == 0 || std::ranges::any_of(config.experts().workers(), differs))
    return nullptr;
  return std::make_unique<TailPool>(
      TailMemory{.allocate = [&device](size_t bytes) -> Result<TailBuffer> {
                   GH_ASSIGN(MemoryBlock block, device.allocate_for_transfers(static_cast<int64_t>(bytes)));
                   return TailBuffer(std::move(block));
                 },
                 .min_bytes = static_cast<size_t>(min_bytes)});
}

TeamOptions team_options(const config::Config& config, int threads) {
  constexpr int64_t kPatient = 2'000'000;  // transport.wait spin: cores are there to be used
  TeamOptions options{.num_threads = threads > 0 ? threads : static_cast<int>(usable_cores().size())};
  if (wait_options(config).mode == WaitMode::spin) options.spin_ns = kPatient;
  return options;
}

TeamOptions dense_team_options(const config::Config& config) {
  const config::Dense& dense = config.router().dense();
  TeamOptions options = team_options(config, dense.threads());
  if (dense.threads() == 0) options.num_threads = std::max(1, options.num_threads / dense.tensor_parallel());
  return options;
}

std::vector<std::vector<int>> replica_cores(const config::Config& config) {
  return cores_of_parts(num_replicas(config));
}

std::vector<std::vector<int>> rank_cores(const config::Config& config) {
  return cores_of_parts(config.router().dense().tensor_parallel());
}

std::string replica_name(const config::Config& config, int replica) {
  const std::string& router = config.router().name();
  return num_replicas(config) == 1 ? router : fmt::format("{}/{}", router, replica);
}

Result<std::unique_ptr<Ops>> open_device(std::string_view key, const std::string& device, TeamOptions team) {
  Result<std::unique_ptr<Ops>> ops = make_ops(device, team);
  if (ops.has_error()) return Status{ops.error().code, fmt::format("{}: {}", key, ops.error().message)};
  const MemoryFigures memory = (*ops)->memory().figures();
  log_info("device", "key={} asked={} device=\"{}\" memory=\"{}\" free=\"{}\" threads={}", key, device,
           (*ops)->memory().name(), format_bytes(memory.total_bytes), format_bytes(memory.free_bytes),
           team.num_threads);
  return ops;
}

std::string device_key(const config::Config& config, const config::Worker& worker) {
  if (worker.device() == config.experts().device()) return "experts.device";
  return fmt::format("device of experts.workers '{}'", worker.name());
}

double part(int64_t millionths) { return static_cast<double>(millionths) / 1e6; }

LoadMode load_mode(const config::Config& config) {
  return config.model().load() == "dummy" ? LoadMode::dummy : LoadMode::checkpoint;
}

OffloadMode offload_mode(const config::Config& config) {
  return parse_offload_mode(config.experts().offload().mode()).value();  // the schema allows no other
}

int64_t holding_limit(const config::Config& config, const config::Worker& worker) {
  return offload_mode(config) == OffloadMode::none ? worker.memory_bytes() : 0;
}

RowCodecs row_codecs(const config::Worker& worker) {
  return {.dispatch = codec(worker.dispatch_codec()), .combine = codec(worker.combine_codec())};
}

std::vector<RowCodecs> worker_codecs(const config::Config& config) {
  std::vector<RowCodecs> codecs_w;
  for (const config::Worker& worker : config.experts().workers()) codecs_w.push_back(row_codecs(worker));
  return codecs_w;
}

Combine combine_mode(const config::Config& config) {
  return config.transport().combine() == "reduced" ? Combine::reduced : Combine::exact;
}

Result<int64_t> max_model_len(const config::Config& config, const ModelSpec& spec) {
  const int64_t asked = config.model().max_model_len();
  if (asked > spec.max_position)
    return Status{Code::invalid_argument, fmt::format("model.max_model_len: {} is more than the checkpoint's "
                                                      "max_position_embeddings, {}",
                                                      asked, spec.max_position)};
  if (asked > 0) return asked;
  if (config.router().kv_cache().memory_fraction_millionths() > 0)
    return spec.max_position;  // measured later
  const KvCacheOptions cache = kv_cache_options(config, spec.max_position);
  GH_ASSIGN(const ModelShard widest, widest_shard(config, spec));
  const int64_t fits = cache.memory_bytes / KvCache::page_bytes(widest.spec, cache) * cache.block_size;
  if (fits >= spec.max_position || fits == 0) return spec.max_position;
  log_warn("context_reduced", "max_model_len={} checkpoint={}: router.kv_cache.memory holds no more", fits,
           spec.max_position);
  return fits;
}

Result<void> check_frame_size(const config::Config& config, const ModelSpec& spec) {
  const auto hidden = static_cast<uint64_t>(spec.hidden);
  uint64_t bytes = 0;  // of one token, in the larger direction of the worker whose rows are largest
  for (const config::Worker& worker : config.experts().workers()) {
    const RowCodecs codecs = row_codecs(worker);
    const auto num_answers =
        static_cast<uint64_t>(combine_mode(config) == Combine::exact ? spec.moe.top_k : 1);
    bytes = std::max(bytes, row_bytes(codecs.dispatch, hidden) +
                                static_cast<uint64_t>(spec.moe.top_k) * sizeof(DispatchPair));
    bytes = std::max(bytes, num_answers * row_bytes(codecs.combine, hidden));
  }
  const auto token_bytes = static_cast<int64_t>(bytes);
  const int64_t largest = (static_cast<int64_t>(kMaxFrameBytes) - static_cast<int64_t>(sizeof(FrameHeader))) /
                          std::max<int64_t>(1, token_bytes);
  const int64_t asked = config.router().batching().max_batched_tokens();
  if (asked <= largest) return {};
  return Status{
      Code::invalid_argument,
      fmt::format("router.batching.max_batched_tokens: {} tokens of this model make frames beyond {}; "
                  "largest that fits: {}",
                  asked, format_bytes(static_cast<int64_t>(kMaxFrameBytes)), largest)};
}

KvMemoryRule kv_memory_rule(const config::Config& config) {
  const config::KvCache& cache = config.router().kv_cache();
  KvMemoryRule rule{.memory_bytes = cache.memory_bytes(), .margin = part(cache.memory_margin_millionths())};
  if (cache.memory_fraction_millionths() > 0) rule.fraction = part(cache.memory_fraction_millionths());
  return rule;
}

KvCacheOptions kv_cache_options(const config::Config& config, int64_t max_model_len) {
  const config::KvCache& cache = config.router().kv_cache();
  return {.block_size = cache.block_size(),
          .memory_bytes = cache.memory_bytes() / num_replicas(config),
          .dtype = kv_dtype(config),
          .max_model_len = max_model_len,
          .max_tokens = config.router().batching().max_sequences() * max_model_len,
          .prefix_caching = cache.prefix_caching() == "true",
          .swap_bytes = cache.swap_bytes() / num_replicas(config)};
}

ReplicaRules replica_rules(const config::Config& config) {
  const std::string& name = config.balance().replica_choice();
  ReplicaRules rules;
  if (name == "auto")
    rules.choice = combine_mode(config) == Combine::exact ? ReplicaChoice::least_loaded : ReplicaChoice::hash;
  else
    rules.choice = parse_replica_choice(name).value();
  for (const config::Worker& worker : config.experts().workers()) {
    rules.speed_w.push_back(part(worker.speed_millionths()));
    const bool beside = worker.host() == config.router().host();
    rules.distance_w.push_back(config.transport().kind() == "loopback" ? 0 : beside ? 1 : 2);
  }
  return rules;
}

EngineOptions engine_options(const config::Config& config, const ModelSpec& spec, int64_t max_model_len) {
  const config::Batching& batching = config.router().batching();
  EngineOptions options;
  options.scheduler = {.max_sequences = batching.max_sequences(),
                       .max_batched_tokens = batching.max_batched_tokens(),
                       .reserve_share = config.router().kv_cache().reserve_percent() / 100.0,
                       .target_itl = std::chrono::microseconds(batching.target_itl_us())};
  options.dispatcher = {.experts = expert_grid(spec),
                        .num_workers = config.experts().workers_size(),
                        .replicas = replica_rules(config),
                        .combine = combine_mode(config),
                        .hidden = spec.hidden,
                        .top_k = spec.moe.top_k,
                        .max_tokens = batching.max_batched_tokens(),
                        .deadline = std::chrono::microseconds(config.transport().deadline_us())};
  options.dispatcher.codecs_w = worker_codecs(config);
  options.micro_batches = micro_batches(config);
  options.max_waiting = (batching.max_waiting() + num_replicas(config) - 1) / num_replicas(config);
  options.max_model_len = max_model_len;
  options.recovery_timeout = std::chrono::microseconds(config.transport().recovery_timeout_us());
  if (const config::Spill& spill = config.router().kv_cache().spill(); !spill.path().empty())
    options.spill = {.folder = spill.path(),
                     .size_bytes = spill.size_bytes() / num_replicas(config),
                     .buffer_bytes = spill.buffer_bytes() / num_replicas(config)};
  return options;
}

FrontEndOptions front_end_options(const config::Config& config) {
  FrontEndOptions options{.block_size = config.router().kv_cache().block_size(),
                          .prefix_affinity = config.router().front_end().prefix_affinity(),
                          .has_peers = !peer_options(config).peers.empty()};
  for (int i = 0; i < num_replicas(config); ++i) options.names.push_back(replica_name(config, i));
  return options;
}

}  // namespace guildhall
