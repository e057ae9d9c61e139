// team.cc: members enter a job through one word, claim its tasks through another, and are never waited for
// unless they entered.
//
// state_ packs the job's number (high 32 bits), whether it is open, and how many members are inside. A member
// that was asleep or descheduled enters late or not at all: the owner then simply runs every task itself,
// which is what lets several teams share too few cores. Sleeping uses futex-backed atomic waits on epoch
// counters; each sleeper announces itself before it looks at state_ one last time, so no wake-up is lost
// (both sides sequentially consistent).
#include "kernels/team.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/spin.h"

namespace guildhall {
namespace {

constexpr uint64_t kOpen = 1u << 31;
constexpr uint64_t kInside = kOpen - 1;
// The owner's least spin before it sleeps while members finish: about one wake-up's worth.
constexpr int64_t kMinJoinSpinNs = 2'000;
uint64_t job_of(uint64_t state) { return state >> 32; }

}  // namespace

struct Team::Impl {
  explicit Impl(TeamOptions options) : options(options) {
    GH_CHECK(options.num_threads >= 1);
    for (int i = 1; i < options.num_threads; ++i) members.emplace_back([this] { member_loop(); });
  }

  ~Impl() {
    stop.store(true);
    wake_epoch.fetch_add(1);
    wake_epoch.notify_all();
    for (std::thread& member : members) member.join();
  }

  void run(int64_t num_tasks, const std::function<void(int64_t)>& task) {
    job_task = &task;
    job_num_tasks = num_tasks;
    next_task.store(0, std::memory_order_relaxed);
    const uint64_t opened = (job_of(state.load(std::memory_order_relaxed)) + 1) << 32 | kOpen;
    state.store(opened);
    if (sleepers.load() > 0) {
      wake_epoch.fetch_add(1);
      wake_epoch.notify_all();
    }
    claim_tasks();
    if ((state.fetch_and(~kOpen) & kInside) != 0) join();
  }

  // Waits for the members that entered.
  void join() {
    const auto all_left = [this] { return (state.load() & kInside) == 0; };
    if (spin(std::max(options.spin_ns, kMinJoinSpinNs), all_left)) return;
    owner_sleeps.store(true);
    while (true) {
      const int epoch = left_epoch.load();
      if (all_left()) break;
      left_epoch.wait(epoch);
    }
    owner_sleeps.store(false);
  }

  void claim_tasks() {
    const int64_t num_tasks = job_num_tasks;
    const std::function<void(int64_t)>& task = *job_task;
    for (int64_t i; (i = next_task.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) task(i);
  }

  void member_loop() {
    uint64_t last_job = 0;
    const auto wanted = [this, &last_job] {
      const uint64_t s = state.load();
      return ((s & kOpen) != 0 && job_of(s) != last_job) || stop.load(std::memory_order_relaxed);
    };
    while (true) {
      if (!spin(options.spin_ns, wanted)) sleep(wanted);
      if (stop.load()) return;
      uint64_t s = state.load();
      if ((s & kOpen) == 0 || job_of(s) == last_job || !state.compare_exchange_strong(s, s + 1)) continue;
      last_job = job_of(s);
      claim_tasks();
      const uint64_t before = state.fetch_sub(1);
      if ((before & kInside) == 1 && owner_sleeps.load()) {
        left_epoch.fetch_add(1);
        left_epoch.notify_one();
      }
    }
  }

  template <class Wanted>
  void sleep(Wanted wanted) {
    const int epoch = wake_epoch.load();
    sleepers.fetch_add(1);
    if (!wanted()) wake_epoch.wait(epoch);
    sleepers.fetch_sub(1);
  }

  const TeamOptions options;
  std::atomic<bool> running{false};  // for the check only
  // Written by the owner while no member is inside; published by opening state.
  alignas(64) std::atomic<uint64_t> state{0};
  const std::function<void(int64_t)>* job_task = nullptr;
  int64_t job_num_tasks = 0;
  alignas(64) std::atomic<int64_t> next_task{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<int> wake_epoch{0};
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<bool> owner_sleeps{false};
  std::atomic<int> left_epoch{0};
  std::vector<std::thread> members;
};

Team::Team(TeamOptions options) : impl_(std::make_unique<Impl>(options)) {}
Team::~Team() = default;

int Team::num_threads() const { return impl_->options.num_threads; }

void Team::parallel_for(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  // Plain loads and stores: a second caller is a bug that this catches nearly always, at no cost.
  GH_CHECK(!impl_->running.load(std::memory_order_relaxed));
  impl_->running.store(true, std::memory_order_relaxed);
  if (impl_->options.num_threads == 1 || num_tasks <= 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
  } else {
    impl_->run(num_tasks, task);
  }
  impl_->running.store(false, std::memory_order_relaxed);
}

}  // namespace guildhall
