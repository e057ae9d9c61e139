#include "deploy/programs/balance_service.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "deploy/programs/balance_settings.h"
#include "deploy/programs/other_loads.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kTick{250};

// The cluster, and a tick as soon as a move has ended.
class WatchedCluster final : public BalancedCluster {
 public:
  WatchedCluster(boost::asio::io_context& io, BalanceParts parts, std::function<void()> on_ended)
      : cluster_(parts.cluster),
        monitor_(parts.monitor),
        served_(std::move(parts.served)),
        others_(io, std::move(parts.others)),
        on_ended_(std::move(on_ended)) {}

  OtherLoads& others() { return others_; }

  std::vector<BalancedWorker> workers() const override {
    std::vector<BalancedWorker> workers;
    const std::vector<WorkerStatus> status = cluster_.status();
    for (WorkerHoldings& holdings : cluster_.holdings()) {
      const bool loading = !holdings.ready && status[workers.size()].state == "loading";
      workers.push_back({holdings.ready, loading, std::move(holdings.experts_l)});
    }
    return workers;
  }
  Loads window() const override {
    Loads loads = monitor_.recorder().window().loads;
    others_.add_to(loads);
    return loads;
  }
  ServedSteps served() const override {
    ServedSteps served = served_();
    served.counted = monitor_.recorder().totals().num_steps + others_.num_steps();
    return served;
  }
  std::optional<StepCosts> costs() const override { return monitor_.costs(); }
  void add_experts(MoveRequest request, MoveDone done) override {
    cluster_.add_experts(std::move(request), and_tick(std::move(done)));
  }
  void drop_experts(int32_t worker, ExpertsOfLayer experts_l, MoveDone done) override {
    cluster_.drop_experts(worker, std::move(experts_l), and_tick(std::move(done)));
  }

 private:
  MoveDone and_tick(MoveDone done) const {
    return [done = std::move(done), on_ended = on_ended_](const MoveOutcome& outcome) {
      done(outcome);
      on_ended();
    };
  }

  Cluster& cluster_;
  ExpertMonitor& monitor_;
  const std::function<ServedSteps()> served_;
  OtherLoads others_;
  const std::function<void()> on_ended_;
};

}  // namespace

struct BalanceService::Impl : std::enable_shared_from_this<Impl> {
  Impl(boost::asio::io_context& io_, BalanceParts parts, const config::Config& config, const ModelSpec& spec_)
      : io(io_),
        timer(io_),
        spec(spec_),
        policy(config.balance().policy()),
        cluster(io_, std::move(parts), [this] { tick_soon(); }),
        balancer(cluster, balanced_model(config, spec), balancer_options(config.balance(), spec),
                 Clock::now()) {}

  void post(std::function<void()> action) {
    boost::asio::post(io, [weak = weak_from_this(), action = std::move(action)] {
      if (const auto self = weak.lock()) action();
    });
  }
  void tick_soon() {
    post([this] { balancer.tick(Clock::now()); });
  }
  void run() {
    if (policy != "static") cluster.others().refresh(Clock::now());
    balancer.tick(Clock::now());
    timer.expires_after(kTick);
    timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      if (const auto self = weak.lock(); self && !error) self->run();
    });
  }

  boost::asio::io_context& io;
  boost::asio::steady_timer timer;
  const ModelSpec spec;
  std::string policy;
  WatchedCluster cluster;
  Balancer balancer;
};

BalanceService::BalanceService(boost::asio::io_context& io, BalanceParts parts, const config::Config& config,
                               const ModelSpec& spec)
    : impl_(std::make_shared<Impl>(io, std::move(parts), config, spec)) {}

BalanceService::~BalanceService() = default;

void BalanceService::start() {
  impl_->post([impl = impl_.get()] { impl->run(); });
}

void BalanceService::set_config(const config::Balance& balance) {
  impl_->post([impl = impl_.get(), balance] {
    impl->policy = balance.policy();
    impl->balancer.set_options(balancer_options(balance, impl->spec), Clock::now());
  });
}

BalanceStatus BalanceService::status() const { return impl_->balancer.status(); }

}  // namespace guildhall
