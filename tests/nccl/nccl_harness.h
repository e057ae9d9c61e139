// nccl_harness.h: ends over NCCL for tests: frames of a byte on go over it, and communicators are made at
// once.
#pragma once

#include "tests/unit/transport/exchange_harness.h"
#include "transport/nccl_exchange.h"

namespace guildhall {

inline NcclOptions nccl_test_options(bool is_hub) {
  return {.is_hub = is_hub,
          .min_frame_bytes = 1,
          .deadline = std::chrono::minutes(1),
          .join_deadline = std::chrono::minutes(1),
          .settle = std::chrono::nanoseconds(0)};
}

inline std::unique_ptr<Exchange> open_nccl(const NcclOptions& options, std::unique_ptr<Exchange> signals) {
  auto exchange = NcclExchange::open(options, std::move(signals));
  if (!exchange) ADD_FAILURE() << to_string(exchange.error());
  return std::move(exchange).value();
}

}  // namespace guildhall
