// balance_service.h: the balancer of a router process: its timer, and the cluster as the balancer sees it.
#pragma once

#include <functional>
#include <memory>

#include "model/spec.h"
#include "proto/config.pb.h"
#include "router/balancer.h"
#include "router/expert_monitor.h"
#include "router/http/ask_loads.h"

namespace boost::asio {
class io_context;
}

namespace guildhall {

// Borrowed until the io thread has ended.
struct BalanceParts {
  Cluster& cluster;
  ExpertMonitor& monitor;
  std::function<ServedSteps()> served;  // any thread; `counted` is left out
  LoadsQuestion others;                 // the other routers of the file
};

// Owner: any thread until start(), then the io thread; set_config() and status() are for any thread.
class BalanceService {
 public:
  BalanceService(boost::asio::io_context& io, BalanceParts parts, const config::Config& config,
                 const ModelSpec& spec);
  ~BalanceService();

  void start();
  void set_config(const config::Balance& balance);
  BalanceStatus status() const;

 private:
  struct Impl;
  const std::shared_ptr<Impl> impl_;
};

}  // namespace guildhall
