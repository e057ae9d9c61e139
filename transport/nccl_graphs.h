// nccl_graphs.h: groups of one communicator's operations as CUDA graphs, each shape of group recorded once
// and repeated as one launch. A shape is who sends or receives how much; its record keeps the device memory
// that its operations work on, so only one group at a time goes by it.
//
// A shape's first group goes without a record: NCCL connects ranks at their first operation, which a capture
// would not allow. The second is recorded. Where recording fails it is given up for good, with one warning.
// The communicator outlives its records: clear() before it is revoked or aborted. One thread.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "transport/nccl_memory.h"

namespace guildhall {

// What an exchange's records have in common.
struct NcclGraphUse {
  size_t most_bytes = 0;  // of one operation; larger ones go without a record. 0: all do
  uint64_t recorded = 0, repeated = 0;
};

class NcclGraphs {
 public:
  struct Operation {
    bool is_send = false;
    int rank = 0;
    size_t bytes = 0;
    auto operator<=>(const Operation&) const = default;
  };
  using Shape = std::vector<Operation>;

  struct Record {
    std::vector<NcclMemory::Buffer> staged;  // device memory, by operation
    cudaGraphExec_t executable = nullptr;    // none yet: to be recorded
    bool in_use = false;                     // by a group that is not through
    uint64_t last_use = 0;
    ~Record();
  };

  // `use` is borrowed.
  explicit NcclGraphs(NcclGraphUse& use) : use_(use) {}
  NcclGraphs(const NcclGraphs&) = delete;

  // The record that a group of this shape goes by, marked as in use; none: it goes without. `memory` gives a
  // new record what it keeps.
  Result<std::shared_ptr<Record>> take(const Shape& shape, NcclMemory& memory);
  // False: given up, and the group goes without.
  bool begin(cudaStream_t stream);
  bool end(cudaStream_t stream, Record& record);
  bool launch(Record& record, cudaStream_t stream);
  // Ends a recording that comes to nothing: its communicator is over.
  void abandon(cudaStream_t stream);
  // The communicator failed; if that was while it was recorded, no other is.
  void give_up();
  bool recording() const { return recording_; }

  void clear();

 private:
  bool succeeded(cudaError_t error, const char* call);
  void turn_off(const std::string& why);
  void make_room();

  NcclGraphUse& use_;
  std::map<Shape, std::shared_ptr<Record>> records_;
  std::set<Shape> seen_;  // once
  uint64_t num_uses_ = 0;
  bool recording_ = false;
};

}  // namespace guildhall
