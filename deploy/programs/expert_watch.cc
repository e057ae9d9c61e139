#include "deploy/programs/expert_watch.h"

#include <chrono>

#include "deploy/programs/settings.h"

namespace guildhall {
namespace {

constexpr std::chrono::seconds kLook{1};  // as often as workers tell
// Only their ratio counts, and only while the work seen does not tell them apart: that of a machine that
// computes two hundred operations in the time in which it reads a byte of weights.
constexpr double kOperationsPerByte = 200;

}  // namespace

ExpertMonitorOptions expert_monitor_options(const config::Config& config, const ModelSpec& spec) {
  ExpertMonitorOptions options{.router = config.router().name(),
                               .routing = {.shape = routing_shape(spec, config.model().name()),
                                           .num_workers = config.experts().workers_size(),
                                           .window_steps = config.balance().window_steps(),
                                           .trace = {.folder = config.balance().trace().folder(),
                                                     .max_bytes = config.balance().trace().max_bytes_bytes(),
                                                     .suffix = config.router().name()}}};
  for (const config::Worker& worker : config.experts().workers())
    options.speed_w.push_back(part(worker.speed_millionths()));
  const TraceHeader& shape = options.routing.shape;
  options.expected = {.pair_ns = 2 * static_cast<double>(shape.expert_params),
                      .activation_ns = kOperationsPerByte * static_cast<double>(shape.expert_bytes)};
  return options;
}

void ExpertWatch::start() {
  timer_.expires_after(kLook);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    monitor_.sample();
    start();
  });
}

}  // namespace guildhall
