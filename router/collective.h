// collective.h: how the ranks of tensor parallelism meet: sums of their parts of a row, and logits' columns
// brought together. Ranks call the same operations in the same order, each on a thread of its own. An
// operation fails by being void: state() then says why on every rank, until all ranks are at rest and
// reset() was called.
#pragma once

#include "base/status.h"
#include "kernels/view.h"

namespace guildhall {

// One rank's side. Thread: the rank's.
class Collective {
 public:
  virtual ~Collective() = default;

  // x += the parts of the first num_parts ranks, in the order of ranks: the same bits on each. `part_th`,
  // dense, of this rank, is left alone until the rank's next operation has returned.
  virtual void add_parts(View2<float> part_th, int num_parts, View2<float> x_th) = 0;
  // all_rv of rank 0 = the ranks' columns side by side, this one's from first_column on. The others' all_rv
  // is scratch memory.
  virtual void gather_columns(View2<const float> mine_rc, int64_t first_column, View2<float> all_rv) = 0;

  virtual Result<void> state() = 0;
};

// What the ranks share.
class CollectiveGroup {
 public:
  virtual ~CollectiveGroup() = default;
  virtual Collective& rank(int rank) = 0;
  // Ends what the ranks are waiting for, and all that they do before reset(). Any thread.
  virtual void fail(Status why) = 0;
  // Every rank is at rest.
  virtual void reset() = 0;
};

}  // namespace guildhall
