// expert_process.h: everything a guildhall-expert is made of: an exchange, the worker that serves it, and the
// control service through which routers place experts here.
#pragma once

#include "base/status.h"
#include "proto/config.pb.h"

namespace guildhall {

// Serves as the worker of that name until a signal or a drain; the error is what kept it from starting.
Result<void> run_expert_process(const config::Config& config, const std::string& worker_name);

}  // namespace guildhall
