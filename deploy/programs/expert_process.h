// expert_process.h: everything a guildhall-expert is made of: an exchange, the worker that serves it, and the
// control service through which routers place experts here.
#pragma once

#include <functional>
#include <memory>

#include "base/status.h"
#include "deploy/programs/daemon_main.h"
#include "kernels/ops.h"

namespace guildhall {

// Serves as the worker of start.name until a signal or a drain; the error is what kept it from starting. The
// worker's device is the configured one as `adapt` returns it (benchmarks slow it down); empty: as it is.
Result<void> run_expert_process(
    const DaemonStart& start,
    const std::function<std::unique_ptr<Ops>(std::unique_ptr<Ops>)>& adapt = {});

}  // namespace guildhall
