// peer_link.h: a link to another worker from which experts are fetched: its control plane is dialed with a
// worker's hello, then both ends of the data plane connect. Owner: the io thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "experts/weight_fetch.h"
#include "experts/worker.h"
#include "model/spec.h"

namespace boost::asio {
class io_context;
}

namespace guildhall {

struct PeerLinkOptions {
  std::string worker_name;  // our own
  std::string exchange_kind, exchange_address;
  std::chrono::nanoseconds heartbeat{};
  std::chrono::nanoseconds deadline{};  // to be reached, and of each answer
};

class PeerLink {
 public:
  using Opened = std::function<void(const Result<std::shared_ptr<WeightFetch>>&)>;

  // `spec` and `worker` are borrowed. Starts; `opened` is called once, on the io thread, unless this ends
  // before. The fetch ends with the link.
  PeerLink(boost::asio::io_context& io, const PeerLinkOptions& options, const ModelSpec& spec, Worker& worker,
           const std::string& address, Opened opened);
  ~PeerLink();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guildhall
