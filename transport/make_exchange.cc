// make_exchange.cc: the one place that knows every kind.
#include "transport/make_exchange.h"

#include "transport/loopback.h"
#include "transport/ucx_exchange.h"

namespace guildhall {

Result<std::unique_ptr<Exchange>> make_exchange(const ExchangeOptions& options) {
  if (options.kind == ExchangeKind::ucx) {
    GH_ASSIGN(std::unique_ptr<Exchange> exchange, UcxExchange::open(options.ucx));
    return exchange;
  }
  if (options.kind == ExchangeKind::nccl) {
    if (!options.open_nccl)
      return Status{
          Code::unsupported,
          "transport.kind nccl: this build has no NCCL; build it where CMake finds the CUDA toolkit "
          "and NCCL (its configure line says), or use ucx"};
    GH_ASSIGN(std::unique_ptr<Exchange> signals, UcxExchange::open(options.ucx));
    return options.open_nccl(options.nccl, std::move(signals));
  }
  if (!options.loopback)
    return Status{Code::invalid_argument,
                  "transport.kind loopback joins ends of one process only; across processes use ucx"};
  return options.loopback->make_end(options.name);
}

}  // namespace guildhall
