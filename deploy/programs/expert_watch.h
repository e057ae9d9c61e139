// expert_watch.h: a router process's ExpertMonitor, made from its configuration, which looks at the workers
// once a second on the io thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "model/spec.h"
#include "proto/config.pb.h"
#include "router/expert_monitor.h"

namespace guildhall {

// Without the workers, who are asked as they run.
ExpertMonitorOptions expert_monitor_options(const config::Config& config, const ModelSpec& spec);

class ExpertWatch {
 public:
  ExpertWatch(boost::asio::io_context& io, ExpertMonitorOptions options)
      : monitor_(std::move(options)), timer_(io) {}

  void start();  // on the io thread; ends with it
  ExpertMonitor& monitor() { return monitor_; }

 private:
  ExpertMonitor monitor_;
  boost::asio::steady_timer timer_;
};

}  // namespace guildhall
