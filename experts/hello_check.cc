#include "experts/hello_check.h"

#include <fmt/format.h>

#include "model/fingerprint.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "proto/exchange.h"

namespace guildhall {

Result<void> check_hello(const control::Hello& hello, const ControlServiceOptions& options,
                         const ModelSpec& spec) {
  const std::string who = fmt::format("worker={}: {} {}", options.worker_name,
                                      hello.from_worker() ? "worker" : "router", hello.router_name());
  if (hello.exchange_kind() != options.exchange_kind)
    return Status{Code::invalid_argument, fmt::format("{} has transport.kind {}, this worker {}", who,
                                                      hello.exchange_kind(), options.exchange_kind)};
  if (hello.model_type() != spec.model_type || hello.model_fingerprint() != fingerprint(spec))
    return Status{Code::invalid_argument, fmt::format("{} serves another {} checkpoint than the one at {}",
                                                      who, hello.model_type(), options.model_path.string())};
  for (const uint32_t codec : {hello.dispatch_codec(), hello.combine_codec()})
    if (codec >= kNumCodecs)
      return Status{Code::unsupported,
                    fmt::format("{} asks for codec {}, which this version lacks", who, codec)};
  if (hello.more_exchange_addresses_size() >= kMaxReplicas)
    return Status{Code::invalid_argument,
                  fmt::format("{} has {} replicas; at most {} fit", who,
                              hello.more_exchange_addresses_size() + 1, kMaxReplicas)};
  if (hello.combine() > static_cast<uint32_t>(Combine::reduced))
    return Status{Code::unsupported,
                  fmt::format("{} asks for combine {}, which this version lacks", who, hello.combine())};
  return {};
}

}  // namespace guildhall
