#include "router/control_messages.h"

#include <fmt/format.h>

#include "proto/envelope.h"

namespace guildhall {
namespace {

using Layers = google::protobuf::RepeatedPtrField<control::LayerExperts>;

void write_experts(const ExpertsOfLayer& experts_l, Layers& layers) {
  for (size_t layer = 0; layer < experts_l.size(); ++layer) {
    if (experts_l[layer].empty()) continue;
    control::LayerExperts& entry = *layers.Add();
    entry.set_layer(static_cast<uint32_t>(layer));
    for (const int32_t expert : experts_l[layer]) entry.add_experts(static_cast<uint32_t>(expert));
  }
}

OffloadSums read_offload(const control::OffloadLoads& message) {
  return {.hits = static_cast<int64_t>(message.hits()),
          .waits = static_cast<int64_t>(message.waits()),
          .wait_ns = static_cast<int64_t>(message.wait_ns()),
          .loaded_bytes = static_cast<int64_t>(message.loaded_bytes()),
          .prefetched_used = static_cast<int64_t>(message.prefetched_used()),
          .prefetched_unused = static_cast<int64_t>(message.prefetched_unused()),
          .evictions = static_cast<int64_t>(message.evictions()),
          .load_errors = static_cast<int64_t>(message.load_errors()),
          .resident_experts = static_cast<int64_t>(message.resident_experts()),
          .resident_bytes = static_cast<int64_t>(message.resident_bytes())};
}

}  // namespace

control::Envelope hello_message(const ClusterOptions& options, const RowCodecs& codecs, uint64_t generation) {
  control::Envelope envelope;
  control::Hello& hello = *envelope.mutable_hello();
  hello.set_protocol_version(kControlVersion);
  hello.set_software_version(GUILDHALL_VERSION);
  hello.set_router_name(options.router_name);
  const std::vector<std::string>& replicas = options.exchange_addresses;
  hello.set_exchange_address(replicas.front());
  for (size_t i = 1; i < replicas.size(); ++i) hello.add_more_exchange_addresses(replicas[i]);
  hello.set_exchange_kind(options.exchange_kind);
  hello.set_model_type(options.model_type);
  hello.set_model_fingerprint(options.model_fingerprint);
  hello.set_dispatch_codec(static_cast<uint32_t>(codecs.dispatch));
  hello.set_combine_codec(static_cast<uint32_t>(codecs.combine));
  hello.set_combine(static_cast<uint32_t>(options.combine));
  hello.set_isa(options.isa);
  hello.set_generation(generation);
  return envelope;
}

control::Envelope placement_message(const Holdings& asked) {
  control::Envelope envelope;
  envelope.mutable_placement()->set_version(asked.version);
  write_experts(asked.experts_l, *envelope.mutable_placement()->mutable_layers());
  return envelope;
}

control::Envelope holdings_seen_message(uint32_t version) {
  control::Envelope envelope;
  envelope.mutable_holdings_seen()->set_version(version);
  return envelope;
}

control::Envelope add_experts_message(uint64_t move_id, const MoveRequest& request,
                                      const std::string& peer_address) {
  control::Envelope envelope;
  control::AddExperts& message = *envelope.mutable_add_experts();
  message.set_move_id(move_id);
  write_experts(request.experts_l, *message.mutable_layers());
  message.set_peer_address(peer_address);
  message.set_bytes_per_s(static_cast<uint64_t>(request.bytes_per_s));
  return envelope;
}

control::Envelope drop_experts_message(uint64_t move_id, const ExpertsOfLayer& experts_l) {
  control::Envelope envelope;
  envelope.mutable_drop_experts()->set_move_id(move_id);
  write_experts(experts_l, *envelope.mutable_drop_experts()->mutable_layers());
  return envelope;
}

Result<Holdings> read_holdings(const control::Holdings& message, const ExpertGrid& grid) {
  if (message.version() == 0) return Status{Code::data_loss, "holdings: version 0"};
  Holdings holdings{.version = message.version(), .experts_l = ExpertsOfLayer(grid.is_moe_layer.size())};
  for (const control::LayerExperts& entry : message.layers()) {
    if (entry.layer() >= grid.is_moe_layer.size() || !grid.is_moe_layer[entry.layer()])
      return Status{Code::data_loss, fmt::format("holdings: layer {} has no experts", entry.layer())};
    std::vector<int32_t>& experts = holdings.experts_l[entry.layer()];
    for (const uint32_t expert : entry.experts()) {
      if (expert >= grid.num_experts || (!experts.empty() && static_cast<int32_t>(expert) <= experts.back()))
        return Status{Code::data_loss, fmt::format("holdings: layer {}: expert {} is out of order or range",
                                                   entry.layer(), expert)};
      experts.push_back(static_cast<int32_t>(expert));
    }
  }
  return holdings;
}

WorkerLoadSums read_loads(const control::WorkerLoads& message) {
  std::optional<OffloadSums> offload;
  if (message.has_offload()) offload = read_offload(message.offload());
  return {.runs = static_cast<int64_t>(message.runs()),
          .pairs = static_cast<int64_t>(message.pairs()),
          .activations = static_cast<int64_t>(message.activations()),
          .compute_ns = static_cast<int64_t>(message.compute_ns()),
          .weight_bytes = static_cast<int64_t>(message.weight_bytes()),
          .offload = offload};
}

MoveOutcome read_outcome(const control::MoveStatus& message, const std::string& who) {
  MoveOutcome outcome{.bytes = message.bytes_done(),
                      .duration = std::chrono::microseconds(message.duration_us())};
  if (message.state() != control::MoveStatus::DONE)
    outcome.result = Status{Code::unavailable, who + ": " + message.error()};
  return outcome;
}

}  // namespace guildhall
