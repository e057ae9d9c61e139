// loads_message.h: what a worker has counted, as its routers are told. Pure.
#pragma once

#include "experts/worker.h"
#include "proto/control.pb.h"

namespace guildhall {

control::WorkerLoads loads_message(const WorkerCounters& counters);

}  // namespace guildhall
