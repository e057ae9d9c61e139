// nccl_star.cc: see the header.
#include "transport/nccl_star.h"

namespace guildhall {

Result<std::unique_ptr<NcclStar>> NcclStar::join(uint32_t generation, const CommOffer& offer,
                                                 NcclMemory& device_memory, std::chrono::nanoseconds deadline,
                                                 NcclGraphUse& graphs, std::unique_ptr<NcclStar> parent) {
  std::unique_ptr<NcclStar> self(new NcclStar(generation, device_memory, deadline, graphs));
  self->rank_ = static_cast<int>(offer.rank);
  self->num_ranks_ = static_cast<int>(offer.num_ranks);
  self->parent_ = std::move(parent);
  if (self->parent_) {
    self->excluded_.assign(offer.excluded.begin(), offer.excluded.end());
    return self;
  }
  const auto open = [&](const UniqueIdBytes& id) -> Result<std::unique_ptr<NcclPipe>> {
    GH_ASSIGN(auto comm, NcclComm::join(id, self->num_ranks_, self->rank_));
    return NcclPipe::open(std::move(comm), device_memory, deadline, graphs);
  };
  GH_ASSIGN(self->out_, open(offer.out));
  GH_ASSIGN(self->back_, open(offer.back));
  return self;
}

void NcclStar::revoke() {
  if (state_ == State::over) return;
  const bool was_joined = state_ != State::joining;
  state_ = State::over;
  parent_.reset();
  if (was_joined && !out_->revoke().has_error() && !back_->revoke().has_error()) return;
  out_.reset(), back_.reset();  // no successor can shrink these
}

// Shrinking begins when nothing runs in the parent any more.
Result<void> NcclStar::shrink_parent() {
  if (!parent_->out_ || !parent_->back_)
    return Status{Code::unavailable, "nccl: the communicator to shrink is not there any more"};
  GH_ASSIGN(const bool out_quiet, parent_->out_->joined());
  GH_ASSIGN(const bool back_quiet, parent_->back_->joined());
  if (!out_quiet || !back_quiet) return {};
  const auto open = [&](const NcclPipe& from) -> Result<std::unique_ptr<NcclPipe>> {
    GH_ASSIGN(auto comm, NcclComm::shrink(from.comm(), excluded_));
    return NcclPipe::open(std::move(comm), device_memory_, deadline_, graphs_);
  };
  GH_ASSIGN(out_, open(*parent_->out_));
  GH_ASSIGN(back_, open(*parent_->back_));
  return {};
}

Result<void> NcclStar::progress(std::vector<NcclPipe::Transfer>& sent,
                                std::vector<NcclPipe::Transfer>& received) {
  if (state_ == State::over) return {};
  if (state_ == State::joining) {
    if (parent_ && !back_) GH_TRY(shrink_parent());
    if (!back_) return {};
    GH_ASSIGN(const bool out_joined, out_->joined());
    GH_ASSIGN(const bool back_joined, back_->joined());
    if (!out_joined || !back_joined) return {};
    parent_.reset();
    state_ = State::joined;
    return {};
  }
  GH_TRY(sends().progress(sent));
  return receives().progress(received);
}

bool NcclStar::busy() const {
  if (state_ == State::over) return false;
  return state_ == State::joining || out_->busy() || back_->busy();
}

}  // namespace guildhall
