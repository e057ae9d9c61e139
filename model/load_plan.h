// load_plan.h: what to load and where it goes. The plan is made whole (names, shapes and dtypes checked,
// bytes counted) before a byte of a tensor is read; then one pass fills one arena.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "kernels/dtype.h"
#include "model/arena.h"
#include "model/shard.h"
#include "model/tensor_source.h"
#include "model/weights.h"

namespace guildhall {

// The part of each tensor that is read. Ranges of no size: all of it.
struct TensorPart {
  IndexRange rows, cols;
};

// A matrix of tensors of [rows, cols], or of the same part of each, stacked by rows. `out` is set by
// LoadPlan::run and must stay where it is until then; so in all of LoadPlan.
struct MatrixRequest {
  WeightView* out = nullptr;
  std::vector<std::string> names;
  int64_t rows = 0, cols = 0;
  TensorPart part = {};
};

struct KvUpRequest {
  std::string name;  // kv_b_proj: per head dn rows of keys, then dv rows of values; [heads*(dn+dv), rank]
  int64_t heads = 0, nope_dim = 0, value_dim = 0, rank = 0;
  IndexRange part;                 // of the heads
  WeightView* k_up_hrn = nullptr;  // per head [rank, dn], transposed
  WeightView* v_up_hdr = nullptr;  // per head [dv, rank]
};

class LoadPlan {
 public:
  explicit LoadPlan(TensorSource& source) : source_(&source) {}

  // All of one dtype: bf16 when every tensor is, else f32.
  Result<void> add_matrices(std::span<const MatrixRequest> requests);
  Result<void> add_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols,
                          const TensorPart& part = {});
  Result<void> add_f32_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols);
  Result<void> add_vector(std::span<const float>* out, std::string name, int64_t size, DummyFill fill,
                          IndexRange part = {});
  Result<void> add_kv_up(const KvUpRequest& request);

  int64_t bytes() const { return arena_bytes_; }  // that run() allocates
  // Allocates, fills, and sets every `out`, which is in the memory of `device`. Code::cancelled when
  // progress.cancel was set.
  Result<Arena> run(LoadProgress& progress, DeviceMemory& device);

 private:
  // A [rows, cols] part of a source tensor and where it goes in its item.
  struct Piece {
    SourceTensor tensor;
    int64_t source_element = 0, target_element = 0;
    int64_t rows = 0, cols = 0;
    bool transpose = false;
    int64_t source_stride = 0;  // from one row of it to the next in the tensor; 0: cols
  };
  struct Item {
    std::variant<WeightView*, std::span<const float>*> out;
    DType dtype = DType::f32;
    int64_t rows = 0, cols = 0;
    int64_t arena_offset = 0;
    std::vector<Piece> pieces;
  };

  void push(Item item);
  Result<MemoryBlock> staging(const DeviceMemory& device) const;
  Result<void> fill(const Item& item, std::byte* base, LoadProgress& progress);
  Result<void> copy(const Piece& piece, DType dtype, std::byte* target, LoadProgress& progress);
  Result<void> copy_transposed(const Piece& piece, DType dtype, std::byte* target, LoadProgress& progress);
  Result<void> read_chunk(const Piece& piece, int64_t first, int64_t count, DType dtype, std::byte* target,
                          LoadProgress& progress);

  TensorSource* source_;
  std::vector<Item> items_;
  int64_t arena_bytes_ = 0;
  int64_t source_bytes_ = 0;
  std::vector<std::byte> scratch_;      // a chunk as stored
  std::vector<std::byte> transposing_;  // a piece before its transposition
};

}  // namespace guildhall
