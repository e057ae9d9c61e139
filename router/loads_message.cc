#include "router/loads_message.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "proto/loads.pb.h"

namespace guildhall {
namespace {

constexpr size_t kMaxNameBytes = 63;  // as the configuration's

// Reads numbers, and remembers whether one was too large.
class Numbers {
 public:
  explicit Numbers(int64_t most) : most_(static_cast<uint64_t>(most)) {}
  int64_t take(uint64_t value) {
    if (value > most_) good_ = false;
    return good_ ? static_cast<int64_t>(value) : 0;
  }
  bool good() const { return good_; }

 private:
  const uint64_t most_;
  bool good_ = true;
};

Status broken(std::string why) { return {Code::data_loss, "loads of a router: " + std::move(why)}; }

Result<void> read_layer(const loads::LayerLoads& message, int64_t num_experts, int64_t num_workers,
                        std::vector<ExpertLoad>& load_e, std::span<WorkerTraffic> traffic_w) {
  for (const int size : {message.prefill_tokens_size(), message.decode_tokens_size(),
                         message.activations_size(), message.decode_activations_size()})
    if (size != num_experts)
      return broken(
          fmt::format("layer {} has a list of {} experts, not {}", message.layer(), size, num_experts));
  if (message.workers_size() != num_workers)
    return broken(
        fmt::format("layer {} has {} workers, not {}", message.layer(), message.workers_size(), num_workers));
  Numbers experts(kMaxExpertNumber), workers(kMaxWorkerNumber);
  for (int e = 0; e < message.prefill_tokens_size(); ++e)
    load_e[static_cast<size_t>(e)] = {.prefill_tokens = experts.take(message.prefill_tokens(e)),
                                      .decode_tokens = experts.take(message.decode_tokens(e)),
                                      .active_steps = experts.take(message.activations(e)),
                                      .decode_active_steps = experts.take(message.decode_activations(e))};
  for (int w = 0; w < message.workers_size(); ++w) {
    const loads::WorkerTraffic& from = message.workers(w);
    traffic_w[static_cast<size_t>(w)] = {.frames = workers.take(from.frames()),
                                         .pairs = workers.take(from.pairs()),
                                         .bytes_sent = workers.take(from.bytes_sent()),
                                         .bytes_received = workers.take(from.bytes_received()),
                                         .answer_ns = workers.take(from.answer_ns())};
  }
  if (!experts.good() || !workers.good())
    return broken(fmt::format("layer {} has a number that no window has", message.layer()));
  return {};
}

}  // namespace

std::string write_loads(const RouterLoads& from, const TraceHeader& shape) {
  loads::RouterLoads message;
  const size_t num_workers = from.traffic_lw.size() / static_cast<size_t>(shape.num_layers);
  message.set_router(from.router);
  message.set_model(shape.model);
  message.set_total_steps(static_cast<uint64_t>(from.total_steps));
  message.set_num_steps(static_cast<uint64_t>(from.loads.num_steps));
  message.set_window_us(static_cast<uint64_t>(std::llround(from.window_s * 1e6)));
  message.set_num_layers(static_cast<uint32_t>(shape.num_layers));
  message.set_num_experts(static_cast<uint32_t>(shape.num_experts));
  message.set_num_workers(static_cast<uint32_t>(num_workers));
  for (const int32_t layer : shape.moe_layers) {
    const auto l = static_cast<size_t>(layer);
    loads::LayerLoads& to = *message.add_layers();
    to.set_layer(static_cast<uint32_t>(layer));
    for (const ExpertLoad& load : from.loads.load_le[l]) {
      to.add_prefill_tokens(static_cast<uint64_t>(load.prefill_tokens));
      to.add_decode_tokens(static_cast<uint64_t>(load.decode_tokens));
      to.add_activations(static_cast<uint64_t>(load.active_steps));
      to.add_decode_activations(static_cast<uint64_t>(load.decode_active_steps));
    }
    for (const WorkerTraffic& traffic : std::span(from.traffic_lw).subspan(l * num_workers, num_workers)) {
      loads::WorkerTraffic& worker = *to.add_workers();
      worker.set_frames(static_cast<uint64_t>(traffic.frames));
      worker.set_pairs(static_cast<uint64_t>(traffic.pairs));
      worker.set_bytes_sent(static_cast<uint64_t>(traffic.bytes_sent));
      worker.set_bytes_received(static_cast<uint64_t>(traffic.bytes_received));
      worker.set_answer_ns(static_cast<uint64_t>(traffic.answer_ns));
    }
  }
  return message.SerializeAsString();
}

Result<RouterLoads> read_loads(std::string_view bytes, const TraceHeader& shape, int64_t num_workers) {
  loads::RouterLoads message;
  if (bytes.size() > kMaxLoadsBytes || !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return broken("not a message of proto/loads.proto");
  if (message.router().size() > kMaxNameBytes) return broken("its name is too long");
  if (message.model() != shape.model || message.num_layers() != shape.num_layers ||
      message.num_experts() != shape.num_experts || message.num_workers() != num_workers)
    return Status{
        Code::invalid_argument,
        fmt::format("router {} has {} workers for {} layers of {} experts of another model, or another "
                    "number of them than this one; all routers need the same configuration",
                    message.router(), message.num_workers(), message.num_layers(), message.num_experts())};
  Numbers numbers(kMaxWorkerNumber);
  RouterLoads out{.router = message.router(), .loads = empty_loads(shape)};
  out.total_steps = numbers.take(message.total_steps());
  out.loads.num_steps = numbers.take(message.num_steps());
  out.window_s = static_cast<double>(numbers.take(message.window_us())) * 1e-6;
  if (!numbers.good()) return broken("its window has a number that none has");
  out.traffic_lw.resize(static_cast<size_t>(shape.num_layers * num_workers));
  if (message.layers_size() != static_cast<int>(shape.moe_layers.size()))
    return broken(fmt::format("{} layers, not {}", message.layers_size(), shape.moe_layers.size()));
  for (int i = 0; i < message.layers_size(); ++i) {
    const loads::LayerLoads& layer = message.layers(i);
    const auto l = static_cast<size_t>(shape.moe_layers[static_cast<size_t>(i)]);
    if (layer.layer() != l) return broken(fmt::format("layer {} in the place of {}", layer.layer(), l));
    const auto w = static_cast<size_t>(num_workers);
    GH_TRY(read_layer(layer, shape.num_experts, num_workers, out.loads.load_le[l],
                      std::span(out.traffic_lw).subspan(l * w, w)));
  }
  return out;
}

}  // namespace guildhall
