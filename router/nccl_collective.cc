#include "router/nccl_collective.h"

#include <utility>

#include "base/check.h"

namespace guildhall {
namespace {

// A rank's sum waits for the first rank, and that for experts and lost workers, who have deadlines of their
// own: this one is for a device that has stopped.
constexpr std::chrono::minutes kSumDeadline{10};

}  // namespace

// Thread: its rank's; abort() is for any.
class NcclGroup::Member final : public Collective {
 public:
  Member(NcclGroup& group, int rank, Ops& ops) : group_(group), rank_(rank), ops_(ops) {
    GH_CHECK(ops.stream() != nullptr);
  }

  void add_parts(View2<float> part_th, int num_parts, View2<float> x_th) override {
    if (rank_ >= num_parts) ops_.fill_zero(part_th);
    sum(part_th);
    ops_.add(part_th, x_th);
  }

  // As a sum in which the columns of others are zero.
  void gather_columns(View2<const float> mine_rc, int64_t first_column, View2<float> all_rv) override {
    const View2<float> target = all_rv.sub_cols(first_column, mine_rc.cols);
    ops_.fill_zero(all_rv);
    ops_.copy({mine_rc.data, mine_rc.rows, 1, mine_rc.cols, mine_rc.stride, mine_rc.cols},
              {target.data, target.rows, 1, target.cols, target.stride, target.cols});
    sum(all_rv);
  }

  Result<void> state() override {
    settle([&]() -> Result<void> { return sums_ ? sums_->watch() : Result<void>{}; });
    return group_.state();
  }

  // Its stream runs on; what was being summed is void.
  void abort() {
    std::lock_guard lock(mutex_);
    sums_.reset();
  }

 private:
  // The group fails with what `act` fails with, once the lock is free: fail() takes all ranks' locks.
  template <class Act>
  void settle(Act act) {
    std::unique_lock lock(mutex_);
    const Result<void> done = act();
    lock.unlock();
    if (done.has_error()) group_.fail(done.error());
  }

  void sum(View2<float> data) {
    GH_CHECK(data.stride == data.cols);
    const CudaStream stream = ops_.stream();  // also makes the device this thread's
    settle([&]() -> Result<void> {
      if (group_.state().has_error()) return {};
      if (!sums_) GH_TRY(join());
      return sums_->enqueue(data.data, static_cast<size_t>(data.rows * data.cols), ReduceType::f32, stream);
    });
  }

  Result<void> join() {
    GH_ASSIGN(sums_, NcclAllReduce::open({.id = group_.id_,
                                          .rank = rank_,
                                          .num_ranks = static_cast<int>(group_.members_.size()),
                                          .join_deadline = group_.join_deadline_,
                                          .deadline = kSumDeadline}));
    return {};
  }

  NcclGroup& group_;
  const int rank_;
  Ops& ops_;
  std::mutex mutex_;  // guards sums_
  std::unique_ptr<NcclAllReduce> sums_;
};

NcclGroup::NcclGroup(const std::vector<Ops*>& ops_r, std::chrono::nanoseconds join_deadline)
    : join_deadline_(join_deadline) {
  for (size_t r = 0; r < ops_r.size(); ++r)
    members_.push_back(std::make_unique<Member>(*this, static_cast<int>(r), *ops_r[r]));
}

NcclGroup::~NcclGroup() = default;

Result<std::unique_ptr<CollectiveGroup>> NcclGroup::make(const std::vector<Ops*>& ops_r,
                                                         std::chrono::nanoseconds join_deadline) {
  std::unique_ptr<NcclGroup> group(new NcclGroup(ops_r, join_deadline));
  GH_ASSIGN(group->id_, make_unique_id());
  return std::unique_ptr<CollectiveGroup>(std::move(group));
}

Collective& NcclGroup::rank(int rank) { return *members_[static_cast<size_t>(rank)]; }

void NcclGroup::fail(Status why) {
  {
    std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    why_ = std::move(why);
  }
  for (const auto& member : members_) member->abort();  // hosts may be waiting for their streams
}

void NcclGroup::reset() {
  for (const auto& member : members_) member->abort();
  const auto id = make_unique_id();
  std::lock_guard lock(mutex_);
  failed_ = id.has_error();
  if (failed_)
    why_ = id.error();
  else
    id_ = *id;
}

Result<void> NcclGroup::state() {
  std::lock_guard lock(mutex_);
  if (failed_) return why_;
  return {};
}

}  // namespace guildhall
