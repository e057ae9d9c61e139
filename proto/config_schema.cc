#include "proto/config_schema.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "proto/config.pb.h"
#include "proto/exchange.h"

namespace guildhall {
namespace {

constexpr int64_t kSecond = 1'000'000;  // microseconds
constexpr int64_t kHour = 3600 * kSecond;
constexpr int64_t kMaxThreads = 4096;
constexpr int64_t kWhole = 1'000'000;  // of a fraction
constexpr std::string_view kSizeSuffix = "_bytes", kTimeSuffix = "_us", kFractionSuffix = "_millionths";

constexpr std::array kRules = std::to_array<KeyRule>({
    {"model.path", "",
     "Checkpoint folder (`config.json`, `tokenizer.json`, safetensors). **Required.** A relative path starts "
     "at the "
     "configuration file's folder."},
    {"model.name", "", "Name the API serves the model under. Without it: the checkpoint folder's name."},
    {"model.max_model_len",
     "",
     "Longest prompt plus completion, in tokens. Without it: the checkpoint's `max_position_embeddings`.",
     {},
     2,
     1 << 24},
    {"model.load", "checkpoint", "`dummy` fills random weights of the right shapes from `config.json` alone.",
     "checkpoint | dummy"},

    {"router.name", "r0", "Name in logs, and for `guildhall up --host`."},
    {"router.host", "",
     "Host that starts the router under `guildhall up`. Without it: the host of `http.listen`."},
    {"router.http.listen", "127.0.0.1:8000", "Address of the API. Port 0 takes any free port and logs it."},
    {"router.http.threads", "1", "Threads that serve connections.", {}, 1, 256},
    {"router.http.max_body",
     "8MiB",
     "Largest request body; a larger one is answered 413.",
     {},
     1024,
     1ll << 30},
    {"router.http.read_timeout",
     "30s",
     "Time to receive a whole request once it has begun.",
     {},
     1000,
     kHour},
    {"router.http.write_timeout",
     "30s",
     "Time a client may leave a response unread before it is cut off.",
     {},
     1000,
     kHour},
    {"router.http.idle_timeout",
     "75s",
     "Time a connection may stay open between requests.",
     {},
     1000,
     24 * kHour},
    {"router.http.max_connections", "1024", "Open connections; more wait to be accepted.", {}, 1, 1 << 20},
    {"router.http.api_keys_file", "",
     "File with a line `NAME KEY [PRIORITY]` for each API key. Tenants (names) take turns and share no "
     "cached "
     "prefixes; PRIORITY is the lowest number their requests may ask for, 0 without it. `/live`, `/health` "
     "and "
     "`/metrics` need no key. A relative path starts at the configuration file's folder. Without it: no key "
     "is "
     "asked for."},

    {"router.http.first_token_timeout",
     "0s",
     "Time a completion has, from its arrival, for its first token; later it is answered 503 with "
     "`retry-after`. "
     "0s: none.",
     {},
     0,
     24 * kHour},
    {"router.http.request_timeout",
     "0s",
     "Time a completion has for everything: without a token by then it is answered 503, else it ends with "
     "what "
     "it has and the finish reason `abort`. A request's own field `timeout`, in seconds, may be shorter (408 "
     "without a token). 0s: none.",
     {},
     0,
     24 * kHour},

    {"router.http.cors_origins", "",
     "Origins of web pages whose scripts may use the API, as browsers send them: `https://chat.example.org`, "
     "`http://localhost:5173`. `\"*\"`: all pages. Without it: none."},

    {"router.dense.device", "auto",
     "Where attention and the other dense layers run: `auto` (a GPU where this build and this machine have "
     "one, else the CPU), `cpu`, `cuda` (the first GPU) or `cuda:N`."},
    {"router.dense.tensor_parallel",
     "1",
     "Ranks that share each dense layer: its attention heads, MLP columns and vocabulary are divided among "
     "them. "
     "On GPUs each has its own, from `device` on (`cuda:2` and 2 ranks: `cuda:2`, `cuda:3`); on the CPU each "
     "has "
     "threads of its own. Logits move by rounding with their number (README, Numbers that don't move).",
     {},
     1,
     64},
    {"router.dense.threads",
     "0",
     "Compute threads; of each replica (`data_parallel`) or rank (`tensor_parallel`). 0: one per core this "
     "process may use; replicas and ranks share the cores.",
     {},
     0,
     kMaxThreads},
    {"router.dense.isa", "auto",
     "Instruction set of the CPU kernels. `auto`: the best this processor has. All processes of a cluster "
     "must agree "
     "for equal bits.",
     "auto | portable | avx2 | avx512 | avx512_bf16"},
    {"router.dense.data_parallel",
     "1",
     "Replicas of the dense layers in this process, all on `device`. Each has its own batch, its own share "
     "of "
     "`kv_cache.memory` and of the cores, and `batching.max_sequences` of its own; weights are there once, "
     "and "
     "`batching.max_waiting` is for all together. Texts do not depend on it. Not together with "
     "`tensor_parallel`.",
     {},
     1,
     64},

    {"router.front_end.prefix_affinity",
     "2048",
     "With several replicas, a request goes where the fewest tokens are outstanding; one that holds the "
     "beginning of its prompt may have as many more of them as it holds tokens, and at most this many. 0: "
     "prefixes do not count.",
     {},
     0,
     1 << 24},
    {"router.front_end.spread", "true",
     "With several `routers`: a request may be forwarded, once, to a peer that is less loaded or holds the "
     "beginning of its prompt, with its API key and request id. False: each router serves what comes to it.",
     "true | false"},
    {"router.front_end.spread_margin",
     "512",
     "Outstanding tokens that a peer must have less than this router, to be sent a request.",
     {},
     0,
     1 << 24},
    {"router.front_end.load_interval",
     "200ms",
     "Time between two questions for a peer's load. A peer that does not answer within 1s is left out.",
     {},
     10'000,
     60 * kSecond},

    {"router.kv_cache.block_size", "16", "Tokens per page.", {}, 1, 4096},
    {"router.kv_cache.memory",
     "1GiB",
     "Memory for keys and values, on each rank of `dense.tensor_parallel`; requests wait when it is full.",
     {},
     1 << 16,
     1ll << 50},
    {"router.kv_cache.dtype", "f32",
     "Element type of keys and values. `bf16` takes half the memory; `fp8` (e4m3) and `int8` a quarter, and "
     "scales: one per token, kv head and 128 elements (`kernels/kv_pages.h`). Log-probabilities then move "
     "(README, Precision); texts go on not depending on the batch.",
     "f32 | bf16 | fp8 | int8"},
    {"router.kv_cache.prefix_caching", "true",
     "Keep what prompts and answers left in the cache, and begin prompts that start alike where it ends. "
     "Texts "
     "do not depend on it. Requests share only with those of the same `cache_salt`.",
     "true | false"},
    {"router.kv_cache.reserve_percent",
     "20",
     "Of the pages, kept back when requests are admitted, for the ones that run to grow into; less when they "
     "cannot grow so far. Too little: requests are preempted and computed again.",
     {},
     0,
     90},
    {"router.kv_cache.swap",
     "0",
     "Host memory for pages of requests that are preempted: they come back when the request runs again, "
     "where "
     "that takes less time, as measured, than computing them again. 0: always computed again.",
     {},
     0,
     1ll << 50},
    {"router.kv_cache.memory_fraction",
     "0",
     "On a GPU, instead of `memory`: the part of the device's memory that this process may fill. The cache "
     "takes what weights and a rehearsed step, measured, leave of it. 0: `memory` decides.",
     {},
     0,
     kWhole},
    {"router.kv_cache.memory_margin",
     "0.1",
     "Part of a GPU's memory that stays free: a cache that would take it is refused at start, with the "
     "numbers.",
     {},
     0,
     kWhole},
    {"router.kv_cache.spill.path", "",
     "Folder, of a fast local disk, for a file that takes pages which the cache gives up: a prompt whose "
     "beginning "
     "is there waits for it to be read, where that takes less time, as measured, than computing it. The file "
     "is "
     "this process's alone and has no name, so that it ends with the process. A full disk turns it off, with "
     "a "
     "line in the log. A relative path starts at the configuration file's folder. Without it: pages given up "
     "are "
     "lost."},
    {"router.kv_cache.spill.size",
     "16GiB",
     "Size of that file, reserved at start; replicas (`dense.data_parallel`) share it. The pages longest not "
     "asked "
     "for make way.",
     {},
     1 << 16,
     1ll << 50},
    {"router.kv_cache.spill.buffer",
     "64MiB",
     "Host memory through which pages go to the file and back. What is given up while it is full is lost, so "
     "that "
     "no step waits for the disk.",
     {},
     1 << 16,
     1ll << 40},

    {"router.batching.max_sequences", "64", "Sequences that run at once.", {}, 1, kMaxRows},
    {"router.batching.max_batched_tokens",
     "512",
     "Tokens per step, decode and prefill together.",
     {},
     1,
     kMaxRows},
    {"router.batching.max_waiting",
     "1024",
     "Requests that wait to run; more are answered 429.",
     {},
     1,
     1 << 20},
    {"router.batching.target_itl",
     "0s",
     "Time from one token of a request to its next that steps should keep to: prefill takes smaller parts of "
     "a "
     "step, by the times measured. 0s: a step takes max_batched_tokens.",
     {},
     0,
     60'000'000},
    {"router.batching.micro_batches", "auto",
     "Parts a step runs as. With 2, one is in attention while the other is on the wire or in the experts. "
     "`auto` times both and takes the faster, for each size of step; with workers in the router's process it "
     "is 1. "
     "Results are the same.",
     "auto | 1 | 2"},

    {"routers.name", "",
     "Name in logs, for `guildhall-router --name` and `guildhall up --host`. **Required**, unique."},
    {"routers.listen", "", "Its `router.http.listen`. **Required**, unique."},
    {"routers.host", "", "Host that starts it under `guildhall up`. Without it: the host of `listen`."},
    {"routers.threads", "0", "Its `router.dense.threads`. 0: as there.", {}, 0, kMaxThreads},
    {"routers.device", "", "Its `router.dense.device`. Without it: the same as there."},

    {"experts.device", "auto",
     "Where experts run, as `router.dense.device`. Each worker looks at its own machine."},
    {"experts.memory_margin",
     "0.1",
     "Part of a GPU's memory that stays free of experts: a placement that would take it is refused, with the "
     "numbers.",
     {},
     0,
     kWhole},
    {"experts.offload.mode", "none",
     "Where experts are that a worker holds beyond `workers.memory`. `none`: nowhere; such a placement is "
     "refused. `disk`: in the checkpoint, on the worker's own disk. `host`: in the memory of a GPU worker's "
     "host. They are brought in when tokens choose them, and before, where the router predicts it; the "
     "least used make way. Texts do not depend on it (README, Offload).",
     "none | disk | host"},
    {"experts.workers.name", "", "Name in logs, and for `guildhall up --host`. **Required**, unique."},
    {"experts.workers.address", "",
     "Address the worker's control link listens on, unique. **Required** unless `transport.kind` is "
     "`loopback`."},
    {"experts.workers.host", "",
     "Host that starts it under `guildhall up`. Without it: the host of `address`."},
    {"experts.workers.memory",
     "0",
     "Largest placement it accepts; with `experts.offload`, what it has in memory of its placement at once. "
     "0: no limit.",
     {},
     0,
     1ll << 50},
    {"experts.workers.threads",
     "0",
     "Compute threads. 0: one per core this process may use.",
     {},
     0,
     kMaxThreads},
    {"experts.workers.speed",
     "1",
     "Speed relative to the other workers: balancing gives faster ones more.",
     {},
     10'000,
     1'000'000'000},
    {"experts.workers.dispatch_codec", "",
     "Element type of the rows sent to this worker. Without it: `transport.dispatch_codec`.",
     "f32 | bf16 | fp8"},
    {"experts.workers.combine_codec", "",
     "Element type of the rows this worker returns. Without it: `transport.combine_codec`.",
     "f32 | bf16 | fp8"},
    {"experts.workers.device", "", "Where this worker's experts run. Without it: `experts.device`."},

    {"transport.kind", "ucx",
     "What carries tokens to the experts. `nccl`: frames between the memory of NVIDIA GPUs, signals by UCX. "
     "`loopback`: the workers live in the router's process.",
     "ucx | nccl | loopback"},
    {"transport.codec", "f32",
     "Element type of rows on the wire, both ways. `bf16` takes half the bytes of `f32`, `fp8` (e4m3 with a "
     "scale per 128 elements) a quarter; log-probabilities then move (README, Precision).",
     "f32 | bf16 | fp8"},
    {"transport.dispatch_codec", "", "`codec` of the rows sent to workers, where it differs.",
     "f32 | bf16 | fp8"},
    {"transport.combine_codec", "", "`codec` of the rows workers return, where it differs.",
     "f32 | bf16 | fp8"},
    {"transport.combine", "exact",
     "`exact`: one row per (token, expert) comes back, and the router sums in gate order: the same bits "
     "wherever experts live. `reduced`: one row per (token, worker), weighted and summed there: fewer bytes, "
     "and bits that depend on the placement.",
     "exact | reduced"},
    {"transport.deadline", "10s", "Time a worker has to answer one dispatch.", {}, 1000, kHour},
    {"transport.heartbeat",
     "500ms",
     "Interval of heartbeats; a peer silent for ten of them is lost.",
     {},
     1000,
     60 * kSecond},
    {"transport.startup_timeout",
     "10m",
     "Time to reach every worker and load the model.",
     {},
     1000,
     24 * kHour},
    {"transport.recovery_timeout",
     "60s",
     "How long requests, also new ones, wait for a lost worker to come back before they fail.",
     {},
     1000,
     24 * kHour},
    {"transport.wait", "adaptive",
     "`adaptive` spins briefly, then sleeps; `spin` never sleeps, for machines with cores to spare.",
     "adaptive | spin"},
    {"transport.ucx.tls", "", "Transports UCX may use, as `UCX_TLS`. Without it: UCX chooses."},
    {"transport.ucx.net_devices", "", "Devices UCX may use, as `UCX_NET_DEVICES`. Without it: all."},
    {"transport.ucx.gpu_rows",
     "256KiB",
     "So many bytes of a GPU's rows to one peer cross from its memory, where UCX knows it (the log's "
     "`ucx_memory`) and `transport.codec` is one for all workers; fewer go through pinned host memory. `0`: "
     "all do.",
     {},
     0,
     1ll << 40},
    {"transport.nccl.device",
     "0",
     "CUDA device through whose memory frames pass, of those this process sees (`CUDA_VISIBLE_DEVICES`).",
     {},
     0,
     1023},
    {"transport.nccl.deadline",
     "2s",
     "Time for one operation. Beyond it the communicator is given up and what it carried is sent by UCX; "
     "meanwhile a new one is made of those who answer.",
     {},
     1000,
     kHour},
    {"transport.nccl.join_timeout",
     "30s",
     "Time for a communicator to come up; frames go by UCX until then.",
     {},
     1000,
     kHour},
    {"transport.nccl.min_frame", "16KiB", "Smaller frames go by UCX.", {}, 1, 1ll << 30},
    {"transport.nccl.graph_frame",
     "1MiB",
     "Frames up to this size take the next power of two on the wire, so that few shapes of operations are "
     "seen, and those that recur are recorded as CUDA graphs and launched as one. 0: none are.",
     {},
     0,
     1ll << 30},
    {"transport.slots.count",
     "4",
     "Slots that each end of a link keeps for the other to write frames into, over shared memory and RDMA. "
     "4: "
     "two micro-batches, each with a frame being written and one being read. 0: every frame is a message.",
     {},
     0,
     64},
    {"transport.slots.size",
     "2MiB",
     "Size of a slot; larger frames go as messages. `guildhall config check` prints the memory this takes.",
     {},
     4096,
     1ll << 30},

    {"balance.policy", "static",
     "Where experts go. `static`: they stay where they are. `eplb`: the hottest are replicated, then packed "
     "evenly over workers. `eplb_node`: the same inside each host, which keeps the gate's groups together. "
     "`activation`: evens out the weights read per decode step. `incremental`: the fewest moves that even "
     "out "
     "tokens. Of several `routers`, the first one balances, by the loads of all. Not with "
     "`transport.kind: loopback`. This section is read again on `SIGHUP` and `POST /v1/cluster/reload`, but "
     "for `replica_choice` and `trace`.",
     "static | eplb | eplb_node | activation | incremental"},
    {"balance.redundant_experts",
     "0",
     "Slots per layer, over all workers, beyond one for each expert.",
     {},
     0,
     65536},
    {"balance.window_steps", "1000", "Newest steps whose loads a decision looks at.", {}, 8, 1'000'000},
    {"balance.interval", "30s", "Time between decisions.", {}, 1000, 24 * kHour},
    {"balance.min_gain",
     "0.05",
     "Part of the experts' time per step that a change must save, as predicted. While balancing is under "
     "way, half of it is enough.",
     {},
     0,
     1'000'000},
    {"balance.horizon",
     "10m",
     "How long a placement is expected to stay right: what it saves in this time must be more than its moves "
     "cost.",
     {},
     kSecond,
     24 * kHour},
    {"balance.max_moves",
     "1024",
     "Experts that one decision may move. Layers change whole, except under `incremental`.",
     {},
     1,
     1 << 24},
    {"balance.max_bytes", "64GiB", "Bytes that one decision may move.", {}, 1, 1ll << 50},
    {"balance.replica_choice", "auto",
     "Which replica of an expert serves a token. `least_loaded`: the one whose worker has least to do in "
     "this "
     "layer, for its speed. `hash`: by the request's seed and the token's position, whatever else runs. "
     "`nearest`: of this process, then of this host. `power_of_two`: of two taken by hash, the less loaded. "
     "`auto`: `least_loaded` under `transport.combine: exact`, where texts do not depend on it; `hash` under "
     "`reduced`, where a row's bits depend on which of its experts share a worker, so that at least what "
     "else "
     "runs does not matter.",
     "auto | least_loaded | hash | nearest | power_of_two"},
    {"balance.mode", "active",
     "`active` moves what a decision says. `observe` decides the same, says so in the log and in "
     "`/v1/cluster/balance`, and moves nothing.",
     "active | observe"},
    {"balance.move_rate",
     "1GiB",
     "Bytes per second, at most, that come to each worker while experts move. Repairs are not bounded: "
     "requests wait for them.",
     {},
     1024,
     1ll << 50},
    {"balance.move_slowdown",
     "0.25",
     "How much longer steps take while experts move, as part of their time: what moves cost, by which a "
     "decision judges them.",
     {},
     0,
     100'000'000},
    {"balance.repair", "true",
     "Experts that nobody holds, because a worker is away, are loaded by the workers that are there, "
     "whatever "
     "the policy, as far as `experts.workers.memory` allows. False: requests wait for the worker.",
     "true | false"},
    {"balance.trace.folder", "",
     "Where `POST /v1/cluster/trace` writes routing traces, for `guildhall balance`. A relative path starts "
     "at "
     "the configuration file's folder. Without it: none can be recorded."},
    {"balance.trace.max_bytes",
     "1GiB",
     "Largest routing trace: one that would grow beyond it is finished.",
     {},
     1 << 20,
     1ll << 50},

    {"log.level", "info", "Least severe lines that are printed.", "trace | debug | info | warn | error"},

    {"trace.file", "",
     "Where each process writes what its threads did when (Chrome trace format), at its end and on "
     "`SIGUSR2`. "
     "The process's name goes before the extension: `trace.json` becomes `trace-w0.json`. A relative path "
     "starts at the configuration file's folder. Without it: nothing is recorded."},
    {"trace.max_events",
     "200000",
     "Spans kept in a process, 64 bytes each; the newest stay.",
     {},
     1,
     100'000'000},
});

struct Unit {
  std::string_view name;
  int64_t scale;
};

// Millionths as a decimal number without trailing zeros.
std::string decimal(int64_t millionths) {
  std::string text = fmt::format("{}.{:06}", millionths / 1'000'000, millionths % 1'000'000);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

// The largest unit that divides the value, so that reading it back gives the same number.
std::string exact(int64_t value, std::span<const Unit> largest_first) {
  for (const Unit& unit : largest_first)
    if (value != 0 && value % unit.scale == 0) return fmt::format("{}{}", value / unit.scale, unit.name);
  return std::to_string(value);
}

// "`auto`, `cpu`" for enumerated keys, "1 to 256" for numbers, the kind for the rest.
std::string values_column(const KeyRule& rule, KeyKind kind) {
  if (!rule.allowed.empty()) {
    std::string values = fmt::format("`{}`", rule.allowed);
    for (size_t at; (at = values.find(" | ")) != std::string::npos;) values.replace(at, 3, "`, `");
    return values;
  }
  if (kind == KeyKind::text) return "text";
  if (kind == KeyKind::texts) return "list of texts";
  const std::string_view noun = kind == KeyKind::size ? "size, " : kind == KeyKind::time ? "time, " : "";
  return fmt::format("{}{} to {}", noun, written(rule.min, kind), written(rule.max, kind));
}

void append_section(const google::protobuf::Descriptor& message, const std::string& path, std::string& out) {
  std::string rows;
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    const KeyKind kind = key_kind(field);
    if (kind == KeyKind::section || kind == KeyKind::list) continue;
    const std::string key = fmt::format("{}.{}", path, yaml_key(field));
    const KeyRule* rule = find_key_rule(key);
    GH_CHECK(rule != nullptr);
    rows += fmt::format("| `{}` | {} | {} | {} |\n", yaml_key(field),
                        rule->default_value.empty() ? "" : fmt::format("`{}`", rule->default_value),
                        values_column(*rule, kind), rule->meaning);
  }
  if (!rows.empty())
    out +=
        fmt::format("### `{}`\n\n| key | default | values | meaning |\n|---|---|---|---|\n{}\n", path, rows);
  for (int i = 0; i < message.field_count(); ++i) {
    const auto& field = *message.field(i);
    if (field.message_type() == nullptr) continue;
    const std::string child(yaml_key(field));
    append_section(*field.message_type(), path.empty() ? child : path + "." + child, out);
  }
}

}  // namespace

std::string written(int64_t value, KeyKind kind) {
  static constexpr std::array<Unit, 4> kSizes{
      {{"TiB", 1ll << 40}, {"GiB", 1ll << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}};
  static constexpr std::array<Unit, 5> kTimes{
      {{"h", kHour}, {"m", 60 * kSecond}, {"s", kSecond}, {"ms", 1000}, {"us", 1}}};
  if (kind == KeyKind::size) return exact(value, kSizes);
  if (kind == KeyKind::time) return value == 0 ? "0s" : exact(value, kTimes);
  if (kind == KeyKind::fraction) return decimal(value);
  return std::to_string(value);
}

std::span<const KeyRule> key_rules() { return kRules; }

const KeyRule* find_key_rule(std::string_view key) {
  const auto found =
      std::find_if(kRules.begin(), kRules.end(), [&](const KeyRule& rule) { return rule.key == key; });
  return found == kRules.end() ? nullptr : &*found;
}

std::string_view yaml_key(const google::protobuf::FieldDescriptor& field) {
  std::string_view name = field.name();
  for (const std::string_view suffix : {kSizeSuffix, kTimeSuffix, kFractionSuffix})
    if (name.ends_with(suffix)) name.remove_suffix(suffix.size());
  return name;
}

KeyKind key_kind(const google::protobuf::FieldDescriptor& field) {
  if (field.is_repeated()) return field.message_type() != nullptr ? KeyKind::list : KeyKind::texts;
  if (field.message_type() != nullptr) return KeyKind::section;
  const std::string_view name = field.name();
  if (name.ends_with(kSizeSuffix)) return KeyKind::size;
  if (name.ends_with(kTimeSuffix)) return KeyKind::time;
  if (name.ends_with(kFractionSuffix)) return KeyKind::fraction;
  return field.cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING ? KeyKind::text
                                                                               : KeyKind::number;
}

std::string config_reference_markdown() {
  std::string out;
  append_section(*config::Config::descriptor(), "", out);
  return out;
}

}  // namespace guildhall
