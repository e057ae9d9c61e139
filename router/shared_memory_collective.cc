#include "router/shared_memory_collective.h"

#include <algorithm>

#include "base/check.h"
#include "base/spin.h"
#include "kernels/parallel_rows.h"

namespace guildhall {

class SharedMemoryGroup::Member final : public Collective {
 public:
  Member(SharedMemoryGroup& group, int rank, Ops& ops) : group_(group), rank_(rank), ops_(ops) {
    GH_CHECK(ops.memory().is_host());
  }

  void add_parts(View2<float> part_th, int num_parts, View2<float> x_th) override {
    const Parts* part_r = group_.meet(rank_, part_th);
    if (part_r == nullptr) return;
    for (int r = 0; r < num_parts; ++r) ops_.add((*part_r)[static_cast<size_t>(r)], x_th);
  }

  // They meet once more, as columns may be written anew at once.
  void gather_columns(View2<const float> mine_rc, int64_t, View2<float> all_rv) override {
    const Parts* part_r = group_.meet(rank_, mine_rc);
    if (part_r == nullptr) return;
    if (rank_ == 0) copy_columns(*part_r, all_rv);
    group_.meet(rank_, {});
  }

  Result<void> state() override { return group_.state(); }

 private:
  void copy_columns(const Parts& part_r, View2<float> all_rv) {
    parallel_rows(ops_.team(), all_rv.rows, all_rv.cols, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* to = all_rv.row(row);
        for (const View2<const float>& part : part_r) to = std::copy_n(part.row(row), part.cols, to);
      }
    });
  }

  SharedMemoryGroup& group_;
  const int rank_;
  Ops& ops_;
};

SharedMemoryGroup::SharedMemoryGroup(const std::vector<Ops*>& ops_r, int64_t spin_ns) : spin_ns_(spin_ns) {
  for (size_t r = 0; r < ops_r.size(); ++r)
    members_.push_back(std::make_unique<Member>(*this, static_cast<int>(r), *ops_r[r]));
  for (Parts& parts : parts_i_) parts.resize(ops_r.size());
}

SharedMemoryGroup::~SharedMemoryGroup() = default;

Collective& SharedMemoryGroup::rank(int rank) { return *members_[static_cast<size_t>(rank)]; }

// Returns what all brought when every rank is here, or null: the group has failed. A list is written again
// only once all have come to the meeting after the one it was for, and so have left off reading it; fail()
// counts a meeting too, but is seen by who has seen that.
const SharedMemoryGroup::Parts* SharedMemoryGroup::meet(int rank, View2<const float> part) {
  const uint32_t meeting = meeting_.load();
  if (failed_.load()) return nullptr;
  Parts& parts = parts_i_[meeting % 2];
  parts[static_cast<size_t>(rank)] = part;
  if (arrived_.fetch_add(1) + 1 == members_.size()) {
    arrived_.store(0);
    meeting_.fetch_add(1);
    meeting_.notify_all();
  } else {
    const auto all_here = [&] { return meeting_.load() != meeting; };
    if (!spin(spin_ns_, all_here))
      while (!all_here()) meeting_.wait(meeting);
  }
  return failed_.load() ? nullptr : &parts;
}

void SharedMemoryGroup::fail(Status why) {
  {
    std::lock_guard lock(mutex_);
    if (failed_.load()) return;
    why_ = std::move(why);
    failed_.store(true);
  }
  meeting_.fetch_add(1);  // for who waits
  meeting_.notify_all();
}

void SharedMemoryGroup::reset() {
  arrived_.store(0);
  failed_.store(false);
}

Result<void> SharedMemoryGroup::state() {
  if (!failed_.load()) return {};
  std::lock_guard lock(mutex_);
  return why_;
}

}  // namespace guildhall
