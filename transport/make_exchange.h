// make_exchange.h: an exchange from what the configuration says.
#pragma once

#include <memory>
#include <string>

#include "transport/exchange.h"
#include "transport/nccl_options.h"
#include "transport/ucx_options.h"

namespace guildhall {

class LoopbackFabric;

enum class ExchangeKind { loopback, ucx, nccl };

struct ExchangeOptions {
  ExchangeKind kind = ExchangeKind::ucx;
  UcxOptions ucx;                      // kind ucx; kind nccl: of its signals
  NcclOptions nccl;                    // kind nccl
  OpenNccl open_nccl = nullptr;        // open_nccl_exchange, in a build that has NCCL
  LoopbackFabric* loopback = nullptr;  // kind loopback: the process's fabric; used only during the call
  std::string name;                    // of this end, in logs and for loopback's faults
};

Result<std::unique_ptr<Exchange>> make_exchange(const ExchangeOptions& options);

}  // namespace guildhall
