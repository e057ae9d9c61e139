// control_messages.h: what the router says and hears on a worker's control link, as control.proto has it.
// What is heard is checked here: experts that there are not never get further.
#pragma once

#include "proto/control.pb.h"
#include "router/cluster.h"

namespace guildhall {

control::Envelope hello_message(const ClusterOptions& options, const RowCodecs& codecs, uint64_t generation);
control::Envelope placement_message(const Holdings& asked);
control::Envelope holdings_seen_message(uint32_t version);
// Of an empty peer address: from the checkpoint.
control::Envelope add_experts_message(uint64_t move_id, const MoveRequest& request,
                                      const std::string& peer_address);
control::Envelope drop_experts_message(uint64_t move_id, const ExpertsOfLayer& experts_l);

// Errors: data_loss, naming layer and expert.
Result<Holdings> read_holdings(const control::Holdings& message, const ExpertGrid& grid);
WorkerLoadSums read_loads(const control::WorkerLoads& message);
// Of a move that is over; its error begins with `who`.
MoveOutcome read_outcome(const control::MoveStatus& message, const std::string& who);

}  // namespace guildhall
