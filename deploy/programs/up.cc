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
  // True when one came within `time` that ends this process. SIGHUP does where a terminal that we began on
  // has closed; else it is for the children, to read their configuration again.
  bool wait(std::chrono::milliseconds time, Fleet& fleet) {
    pollfd entry{fd_, POLLIN, 0};
    signalfd_siginfo came;
    if (poll(&entry, 1, static_cast<int>(time.count())) <= 0 || read(fd_, &came, sizeof came) != sizeof came)
      return false;
    if (came.ssi_signo != SIGHUP || (began_on_terminal_ && isatty(STDOUT_FILENO) == 0)) return true;
    log_info("reloading", "reason=SIGHUP: {} are told", fleet.describe());
    fleet.signal(SIGHUP);
    return false;
  }

 private:
  const bool began_on_terminal_ = isatty(STDOUT_FILENO) != 0;
  int fd_;
};

// Where a local process listening on `listen` is reached from here.
HostPort reachable(HostPort listen) {
  if (listen.host == "0.0.0.0") listen.host = "127.0.0.1";
  if (listen.host == "::") listen.host = "::1";
  return listen;
}

// Where others reach a router: its host's name, when it listens on every address of that host.
HostPort advertised(const config::Router& router) {
  const HostPort listen = *parse_host_port(router.http().listen());
  const std::string& host = router.host();
  const HostPort here = reachable(listen);
  const bool named = here.host != listen.host && !host.empty() && host != listen.host;
  return named ? HostPort{host, listen.port} : here;
}

// One look at whether everything on this host serves. Without a router here: whether our workers hold their
// experts.
class ReadyCheck {
 public:
  ReadyCheck(const config::Config& config, const HostPlan& plan)
      : config_(config), plan_(plan), routers_(plan.routers.size()) {}

  bool look() {
    bool all = true;
    for (size_t i = 0; i < routers_.size(); ++i) all = look_at_router(i) && all;
    if (!routers_.empty()) return all;
    for (const int worker : plan_.workers) all = look_at_worker(config_.experts().workers(worker)) && all;
    return all;
  }

  void print() const {
    for (size_t i = 0; i < routers_.size(); ++i)
      print_summary(routers_[i], "http://" + to_string(advertised(plan_.routers[i].settings)),
                    config_.model().name());
    if (routers_.empty()) print_workers(workers_);
  }

 private:
  bool look_at_router(size_t idx) {
    const HostPort address = *parse_host_port(plan_.routers[idx].settings.http().listen());
    Result<RouterHealth> health = query_health(reachable(address), kAnswer);
    if (health.has_error()) return false;  // not listening yet
    const bool is_news = !health->ready || !routers_[idx].ready;
    routers_[idx] = std::move(*health);
    if (is_news) display_.show(routers_[idx]);
    return routers_[idx].ready;
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
    display_.show(workers_);
    return ready;
  }

  WorkerHealth& entry(const config::Worker& worker) {
    for (WorkerHealth& w : workers_.workers)
      if (w.name == worker.name()) return w;
    return workers_.workers.emplace_back(WorkerHealth{.name = worker.name(), .address = worker.address()});
  }

  const config::Config& config_;
  const HostPlan& plan_;
  std::vector<RouterHealth> routers_;  // of the plan's
  RouterHealth workers_;               // without a router here
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
    if (check.look()) {
      check.print();
      return true;
    }
    if (signals.wait(kLook, fleet)) return false;
  }
  return Status{Code::deadline_exceeded,
                fmt::format("not ready within {} (transport.startup_timeout)", format_duration(limit))};
}

Result<void> serve(const config::Config& config, const HostPlan& plan, Fleet& fleet, Signals& signals) {
  GH_ASSIGN(const bool ready, wait_until_ready(config, plan, fleet, signals));
  while (ready && !signals.wait(kLook, fleet)) GH_TRY(fleet.watch(/*serving=*/true));
  return {};
}

Result<void> check_addresses(const config::Config& config, const HostPlan& plan) {
  for (const int worker : plan.workers)
    GH_TRY(check_can_listen(fmt::format("experts.workers[{}].address", worker),
                            config.experts().workers(worker).address()));
  for (const RouterOfFile& router : plan.routers)
    GH_TRY(check_can_listen(router.listen_key, router.settings.http().listen()));
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
