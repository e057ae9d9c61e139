#include "deploy/programs/expert_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <thread>

#include "base/log.h"
#include "deploy/programs/control_thread.h"
#include "deploy/programs/model_files.h"
#include "deploy/programs/reload.h"
#include "deploy/programs/settings.h"
#include "deploy/programs/shutdown.h"
#include "experts/control_service.h"
#include "experts/worker.h"
#include "kernels/isa.h"

namespace guildhall {
namespace {

Result<const config::Worker*> find_worker(const config::Config& config, const std::string& name) {
  std::string known;
  for (const config::Worker& w : config.experts().workers()) {
    if (w.name() == name) return &w;
    known += " " + w.name();
  }
  return Status{Code::not_found, fmt::format("experts.workers has no '{}'; it has:{}", name, known)};
}

ControlServiceOptions service_options(const config::Config& config, const config::Worker& worker,
                                      const Exchange& exchange) {
  return {.worker_name = worker.name(),
          .listen = worker.address(),
          .exchange_kind = config.transport().kind(),
          .exchange_address = exchange.local_address(),
          .model_path = config.model().path(),
          .load_mode = load_mode(config),
          .memory_limit = worker.memory_bytes(),
          .memory_margin = part(config.experts().memory_margin_millionths()),
          .offload = offload_mode(config),
          .isa = std::string(to_string(current_isa())),
          .heartbeat = std::chrono::microseconds(config.transport().heartbeat_us())};
}

}  // namespace

Result<void> run_expert_process(const DaemonStart& start,
                                const std::function<std::unique_ptr<Ops>(std::unique_ptr<Ops>)>& adapt) {
  const config::Config& config = start.config;
  const std::string& worker_name = start.name;
  GH_ASSIGN(const config::Worker* entry, find_worker(config, worker_name));
  if (config.transport().kind() == "loopback")
    return Status{
        Code::invalid_argument,
        "transport.kind is loopback: the router's process holds the workers; start only guildhall-router"};
  GH_TRY(apply_isa(config));
  GH_ASSIGN(const ModelSpec spec, read_spec(config));
  GH_ASSIGN(std::unique_ptr<Ops> ops,
            open_device(device_key(config, *entry), entry->device(), team_options(config, entry->threads())));
  if (adapt) ops = adapt(std::move(ops));
  GH_TRY(check_offload_device(offload_mode(config), ops->memory()));
  const std::unique_ptr<TailPool> tails = tail_pool(config, ops->memory());
  GH_ASSIGN(const std::unique_ptr<Exchange> exchange,
            make_exchange(exchange_options(config, worker_name, tails.get())));
  Worker worker(spec, *exchange, std::move(ops));

  Shutdown shutdown;
  Reload reload(start.file, start.of_file, [](const config::Config&) {});  // balancing is the routers'
  ControlThread control([&] { shutdown.request(); }, [&] { (void)reload.run("SIGHUP"); });
  GH_ASSIGN(std::unique_ptr<ControlService> service,
            ControlService::start(control.io(), service_options(config, *entry, *exchange), spec, worker,
                                  [&] { shutdown.request(); }));
  log_info("listening", "address={} isa={}", service->local_address(), to_string(current_isa()));
  control.start();
  std::thread serve([&] { worker.run(); });

  const std::optional<Status> why = shutdown.wait();
  worker.stop();
  serve.join();
  control.stop();
  if (why) return *why;
  log_info("stopped", "worker={}", worker_name);
  return {};
}

}  // namespace guildhall
