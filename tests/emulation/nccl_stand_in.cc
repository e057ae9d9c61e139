// nccl_stand_in.cc: communicators, groups and faults; see the header.
#include "tests/emulation/nccl_stand_in.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "tests/emulation/emulator.h"
#include "tests/emulation/nccl_operations.h"
#include "tests/emulation/nccl_shared.h"
#include "tests/emulation/streams.h"

namespace guildhall::emulation {

struct Group {
  cudaStream_t stream;
  std::vector<NcclOperation> operations;
  uint64_t number = 0;  // on its communicator
  bool stalled = false, fails = false;
};

// One rank of a communicator. Its owner's thread and the stream's operations meet under the mutex.
struct Rank {
  std::mutex mutex;
  std::string name;
  std::shared_ptr<SharedComm> shared;
  int rank = 0, num_ranks = 0;
  bool blocking = false;

  enum class State { joining, up, revoked, aborted } state = State::joining;
  ncclResult_t error = ncclSuccess;
  int looks = 0;                     // for how many more what was begun is under way
  std::shared_ptr<Group> launching;  // put on its stream when it is over
  std::shared_ptr<Rank> child;       // being made
  ncclComm_t* child_handle = nullptr;
  int num_children = 0;
  uint64_t num_groups = 0, num_groups_done = 0;
  std::map<int, uint64_t> num_sends, num_receives;  // by the other rank
  uint64_t num_slices = 0;
  // Graphs that hold operations of this communicator share it.
  std::shared_ptr<int> captured = std::make_shared<int>(0);

  bool over() const { return state == State::revoked || state == State::aborted || error != ncclSuccess; }
};

}  // namespace guildhall::emulation

struct ncclComm {
  std::shared_ptr<guildhall::emulation::Rank> rank;
};

namespace guildhall::emulation {
namespace {

std::mutex faults_mutex;
NcclFaults faults;

int some_looks() {
  static std::atomic<int> n{0};
  return 1 + n.fetch_add(1) % 3;
}

bool joined(Rank& r) {  // mutex held
  std::lock_guard lock(faults_mutex);
  if (faults.never_join) return false;
  for (int i = 0; i < r.num_ranks; ++i) {
    const uint32_t told = r.shared->joined[i].load();
    if (told == 0) return false;
    if (told != static_cast<uint32_t>(r.num_ranks) + 1) r.error = ncclInvalidUsage;
  }
  if (r.rank == 0) unlink_shared_comm(r.name);
  return true;
}

std::shared_ptr<Rank> make_rank(std::string name, int num_ranks, int rank, bool blocking) {
  auto r = std::make_shared<Rank>();
  r->name = std::move(name);
  r->rank = rank, r->num_ranks = num_ranks, r->blocking = blocking;
  r->shared = map_shared_comm(r->name);
  if (!r->shared) return nullptr;
  r->shared->joined[rank] = static_cast<uint32_t>(num_ranks) + 1;
  r->looks = some_looks();
  return r;
}

// One step of a group in its stream; true: it is over, or its communicator is.
bool advance(Rank& r, Group& group) {
  std::lock_guard lock(r.mutex);
  if (r.over()) return true;
  if (r.num_groups_done != group.number || group.stalled) return false;
  if (group.fails) r.error = ncclSystemError;
  bool all_done = true;
  for (NcclOperation& operation : group.operations) {
    if (r.over()) return true;
    const ncclResult_t went = operation.advance({r.shared.get(), r.rank, r.num_ranks});
    if (went != ncclSuccess) r.error = went;
    all_done &= operation.done;
  }
  if (all_done) ++r.num_groups_done;
  return all_done;
}

void number(Rank& r, Group& group);

// Under capture a group is numbered when its graph is launched, each time anew: the communicator's order is
// that of launches.
void launch(const std::shared_ptr<Rank>& r, std::shared_ptr<Group> group) {
  if (!is_capturing(group->stream)) return enqueue(group->stream, [r, group] { return advance(*r, *group); });
  enqueue_made(group->stream, [r, captured = *group, graph = r->captured]() -> Operation {
    auto again = std::make_shared<Group>(captured);
    std::lock_guard lock(r->mutex);
    if (r->state != Rank::State::up) {
      std::fprintf(stderr, "NCCL's stand-in: a graph is launched, but its communicator is over\n");
      std::abort();
    }
    number(*r, *again);
    return [r, again] { return advance(*r, *again); };
  });
}

struct Waiting {
  ncclComm_t comm;
  cudaStream_t stream;
  NcclOperation operation;
};
thread_local int group_depth = 0;
thread_local std::vector<Waiting> group_waiting;

// What was begun is over, or goes on. Mutex not held.
ncclResult_t look(const std::shared_ptr<Rank>& r) {
  std::shared_ptr<Group> launching;
  {
    std::lock_guard lock(r->mutex);
    if (r->error != ncclSuccess) return r->error;
    if (r->looks > 0) return --r->looks, ncclInProgress;
    if (r->state == Rank::State::joining) {
      if (!joined(*r)) return ncclInProgress;
      r->state = Rank::State::up;
    }
    if (r->child) {
      const ncclResult_t child = look(r->child);
      if (child != ncclSuccess) return child;
      *r->child_handle = new ncclComm{std::move(r->child)};
    }
    launching = std::exchange(r->launching, nullptr);
  }
  if (launching) launch(r, std::move(launching));
  return ncclSuccess;
}

bool in_progress(const Rank& r) {
  return r.looks > 0 || r.launching || r.child || r.state == Rank::State::joining;
}

ncclResult_t finish(const std::shared_ptr<Rank>& r) {
  if (!r->blocking) return ncclInProgress;
  ncclResult_t state;
  while ((state = look(r)) == ncclInProgress) std::this_thread::sleep_for(std::chrono::microseconds(100));
  return state;
}

void number(Rank& r, Group& group) {
  group.number = r.num_groups++;
  for (NcclOperation& operation : group.operations) {
    if (operation.kind == NcclOperation::Kind::send) operation.number = r.num_sends[operation.peer]++;
    if (operation.kind == NcclOperation::Kind::receive) operation.number = r.num_receives[operation.peer]++;
    if (operation.kind != NcclOperation::Kind::all_reduce) continue;
    operation.number = r.num_slices;
    r.num_slices += NcclOperation::num_slices(operation.bytes);
  }
  std::lock_guard lock(faults_mutex);
  if (faults.fail_after > 0) group.fails = --faults.fail_after == 0;
  if (faults.stall_after > 0) group.stalled = --faults.stall_after == 0;
}

ncclResult_t start(ncclComm_t comm, Group group) {
  const std::shared_ptr<Rank> r = comm->rank;
  const bool captured = is_capturing(group.stream);
  {
    std::lock_guard lock(r->mutex);
    if (r->error != ncclSuccess) return r->error;
    if (in_progress(*r) || r->over()) return ncclInvalidUsage;
    if (!captured) number(*r, group);
    r->launching = std::make_shared<Group>(std::move(group));
    r->looks = some_looks() - 1;
  }
  return finish(r);
}

ncclResult_t add(ncclComm_t comm, cudaStream_t stream, NcclOperation operation) {
  if (operation.peer < 0 || operation.peer >= comm->rank->num_ranks) return ncclInvalidArgument;
  if (group_depth == 0) return start(comm, {stream, {operation}});
  group_waiting.push_back({comm, stream, operation});
  return ncclSuccess;
}

size_t element_bytes(ncclDataType_t type) { return type == ncclFloat32 ? 4 : type == ncclBfloat16 ? 2 : 1; }

}  // namespace

void set_nccl_faults(const NcclFaults& wanted) {
  std::lock_guard lock(faults_mutex);
  faults = wanted;
}

}  // namespace guildhall::emulation

using namespace guildhall::emulation;

extern "C" {

ncclResult_t ncclGetVersion(int* version) { return *version = 22809, ncclSuccess; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  std::snprintf(id->internal, sizeof id->internal, "/guildhall-nccl-%08x%08x", random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  id.internal[sizeof id.internal - 1] = '\0';
  if (rank < 0 || rank >= num_ranks || num_ranks > kMaxStandInRanks) return ncclInvalidArgument;
  auto r = make_rank(id.internal, num_ranks, rank, config == nullptr || config->blocking != 0);
  if (!r) return ncclSystemError;
  *comm = new ncclComm{r};
  return finish(r);
}

ncclResult_t ncclCommShrink(ncclComm_t comm, int* excluded, int num_excluded, ncclComm_t* child,
                            ncclConfig_t* config, int) {
  const std::set<int> gone(excluded, excluded + num_excluded);
  const std::shared_ptr<Rank> r = comm->rank;
  {
    std::lock_guard lock(r->mutex);
    std::lock_guard faults_lock(faults_mutex);
    if (faults.refuse_shrink || gone.empty() || gone.contains(r->rank) || in_progress(*r) ||
        r->error != ncclSuccess)
      return ncclInvalidUsage;
    const auto before = static_cast<int>(std::distance(gone.begin(), gone.lower_bound(r->rank)));
    r->child = make_rank(r->name + "." + std::to_string(r->num_children++),
                         r->num_ranks - static_cast<int>(gone.size()), r->rank - before,
                         config == nullptr || config->blocking != 0);
    if (!r->child) return ncclSystemError;
    r->child_handle = child;
    r->looks = some_looks();
  }
  return finish(r);
}

ncclResult_t ncclCommRevoke(ncclComm_t comm, int) {
  {
    std::lock_guard lock(comm->rank->mutex);
    if (comm->rank->error != ncclSuccess) return comm->rank->error;
    if (comm->rank->state != Rank::State::up) return ncclInvalidUsage;
    comm->rank->state = Rank::State::revoked;
    comm->rank->launching.reset();
    comm->rank->looks = some_looks();
  }
  return finish(comm->rank);
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    std::lock_guard lock(comm->rank->mutex);
    if (comm->rank->captured.use_count() > 1) {
      std::fprintf(stderr, "NCCL's stand-in: a communicator ends before the graphs that hold on to it\n");
      std::abort();
    }
    if (comm->rank->state == Rank::State::joining) unlink_shared_comm(comm->rank->name);
    if (comm->rank->child) unlink_shared_comm(comm->rank->child->name);
    comm->rank->child.reset();
    comm->rank->launching.reset();
    comm->rank->state = Rank::State::aborted;
  }
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = look(comm->rank);
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  static const char* const names[] = {"no error",
                                      "unhandled cuda error",
                                      "unhandled system error",
                                      "internal error",
                                      "invalid argument",
                                      "invalid usage",
                                      "remote process exited or there was a network error",
                                      "in progress"};
  return names[result];
}

const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGroupStart() { return ++group_depth, ncclSuccess; }

// Every communicator's part is a group of its own; what one refuses ends the call, as in NCCL.
ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) return ncclInvalidUsage;
  if (--group_depth > 0) return ncclSuccess;
  std::map<ncclComm_t, Group> groups;
  for (Waiting& waiting : group_waiting) {
    Group& group = groups[waiting.comm];
    group.stream = waiting.stream;
    group.operations.push_back(waiting.operation);
  }
  group_waiting.clear();
  ncclResult_t result = ncclSuccess;
  for (auto& [comm, group] : groups) {
    const ncclResult_t one = start(comm, std::move(group));
    if (one != ncclSuccess && (result == ncclSuccess || result == ncclInProgress)) result = one;
  }
  return result;
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int rank, ncclComm_t comm,
                      cudaStream_t stream) {
  NcclOperation operation{.kind = NcclOperation::Kind::send};
  operation.data = static_cast<std::byte*>(const_cast<void*>(data));
  operation.bytes = count * element_bytes(type);
  operation.peer = rank;
  return add(comm, stream, operation);
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int rank, ncclComm_t comm,
                      cudaStream_t stream) {
  NcclOperation operation{.kind = NcclOperation::Kind::receive};
  operation.data = static_cast<std::byte*>(data);
  operation.bytes = count * element_bytes(type);
  operation.peer = rank;
  return add(comm, stream, operation);
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum || (type != ncclFloat32 && type != ncclBfloat16)) return ncclInvalidArgument;
  NcclOperation operation{.kind = NcclOperation::Kind::all_reduce};
  operation.from = static_cast<const std::byte*>(from);
  operation.data = static_cast<std::byte*>(to);
  operation.bytes = count * element_bytes(type);
  operation.type = type;
  return add(comm, stream, operation);
}

}  // extern "C"
