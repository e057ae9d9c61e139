#include "deploy/programs/up.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"
#include "deploy/programs/fleet.h"
#include "deploy/programs/health_client.h"
#include "deploy/programs/hosts.h"
#include "deploy/programs/listen_check.h"
#include "deploy/programs/load_display.h"
#include "proto/config_yaml.h"
#include "proto/control.pb.h"
#include "transport/control/control_client.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kLook{100};     // between looks at children and health
constexpr std::chrono::milliseconds kAnswer{2000};  // for a local process to answer

// SIGINT, SIGTERM and SIGHUP as something to wait for.
class Signals {
 public:
  Signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  }
  ~Signals() { close(fd_); }
  // True when one came within `time`.
  bool wait(std::chrono::milliseconds time) {
    pollfd entry{fd_, POLLIN, 0};
    return poll(&entry, 1, static_cast<int>(time.count())) > 0;
  }

 private:
  int fd_;
};

// Where a local process listening on `listen` is reached from here.
HostPort reachable(HostPort listen) {
  if (listen.host == "0.0.0.0") listen.host = "127.0.0.1";
  if (listen.host == "::") listen.host = "::1";
  return listen;
}

// Where others reach the router: its host's name, when it listens on every address of that host.
HostPort advertised(const config::Config& config) {
  const HostPort listen = *parse_host_port(config.router().http().listen());
  const std::string& host = config.router().host();
  const HostPort here = reachable(listen);
  const bool named = here.host != listen.host && !host.empty() && host != listen.host;
  return named ? HostPort{host, listen.port} : here;
}

// One look at whether everything on this host serves. Without a router here: whether our workers hold their
// experts.
class ReadyCheck {
 public:
  ReadyCheck(const config::Config& config, const HostPlan& plan) : config_(config), plan_(plan) {}

  Result<bool> look() {
    if (plan_.router) return look_at_router();
    bool all = true;
    for (const int worker : plan_.workers) all = look_at_worker(config_.experts().workers(worker)) && all;
    return all;
  }
  const RouterHealth& health() const { return health_; }

 private:
  Result<bool> look_at_router() {
    GH_ASSIGN(const HostPort address, parse_host_port(config_.router().http().listen()));
    Result<RouterHealth> health = query_health(reachable(address), kAnswer);
    if (health.has_error()) return false;  // not listening yet
    health_ = std::move(*health);
    display_.show(health_);
    return health_.ready;
  }

  bool look_at_worker(const config::Worker& worker) {
    const Result<control::StatusReply> status = query_status(worker.address(), kAnswer);
    if (status.has_error()) return false;
    WorkerHealth& shown = entry(worker);
    shown.bytes_done = status->load().bytes_done();
    shown.bytes_total = status->load().bytes_total();
    shown.num_experts = status->load().num_experts();
    shown.resident_bytes = status->load().resident_bytes();
    const bool ready = status->load().state() == control::LoadStatus::READY;
    shown.state = ready ? "ready" : status->num_routers() == 0 ? "waiting for the router" : "loading";
    display_.show(health_);
    return ready;
  }

  WorkerHealth& entry(const config::Worker& worker) {
    for (WorkerHealth& w : health_.workers)
      if (w.name == worker.name()) return w;
    return health_.workers.emplace_back(WorkerHealth{.name = worker.name(), .address = worker.address()});
  }

  const config::Config& config_;
  const HostPlan& plan_;
  RouterHealth health_;
  LoadDisplay display_;
};

// True: everything serves. False: a signal came first.
Result<bool> wait_until_ready(const config::Config& config, const HostPlan& plan, Fleet& fleet,
                              Signals& signals) {
  ReadyCheck check(config, plan);
  const auto limit = std::chrono::microseconds(config.transport().startup_timeout_us());
  const auto deadline = Clock::now() + limit;
  while (Clock::now() < deadline) {
    GH_TRY(fleet.watch(/*serving=*/false));
    GH_ASSIGN(const bool ready, check.look());
    if (ready) {
      if (plan.router)
        print_summary(check.health(), "http://" + to_string(advertised(config)), config.model().name());
      else
        print_workers(check.health());
      return true;
    }
    if (signals.wait(kLook)) return false;
  }
  return Status{Code::deadline_exceeded,
                fmt::format("not ready within {} (transport.startup_timeout)", format_duration(limit))};
}

Result<void> serve(const config::Config& config, const HostPlan& plan, Fleet& fleet, Signals& signals) {
  GH_ASSIGN(const bool ready, wait_until_ready(config, plan, fleet, signals));
  while (ready && !signals.wait(kLook)) GH_TRY(fleet.watch(/*serving=*/true));
  return {};
}

Result<void> check_addresses(const config::Config& config, const HostPlan& plan) {
  for (const int worker : plan.workers)
    GH_TRY(check_can_listen(fmt::format("experts.workers[{}].address", worker),
                            config.experts().workers(worker).address()));
  if (plan.router) GH_TRY(check_can_listen("router.http.listen", config.router().http().listen()));
  return {};
}

}  // namespace

Result<void> run_up(const UpOptions& options) {
  GH_ASSIGN(const config::Config config, read_config(options.config_file));
  init_log("up", config.log().level());
  GH_ASSIGN(const HostPlan plan, plan_for_host(config, options.host));
  GH_TRY(check_addresses(config, plan));
  Signals signals;
  Fleet fleet(options.config_file, options.program_dir);
  Result<void> served = fleet.start(config, plan);
  if (served) {
    fmt::print("guildhall {}: model {}, started {}\n", GUILDHALL_VERSION, config.model().name(),
               fleet.describe());
    std::fflush(stdout);
    served = serve(config, plan, fleet, signals);
  }
  if (served) fmt::print("stopping\n");
  std::fflush(stdout);
  fleet.stop();
  return served;
}

}  // namespace guildhall
