// load_plan.h: what to load and where it goes. The plan is made whole (names, shapes and dtypes checked,
// bytes counted) before a byte of a tensor is read; then one pass fills one arena, or one per block of the
// plan.
#pragma once

#include <cstdint>
#include <optional>
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

// What a matrix of e4m3 codes takes in an arena, with its scales.
int64_t fp8_matrix_bytes(int64_t rows, int64_t cols);

class LoadPlan {
 public:
  // The weights will be in the memory of `device`.
  LoadPlan(TensorSource& source, DeviceMemory& device) : source_(&source), device_(&device) {}

  // All of one dtype: e4m3 when every tensor is and parts begin, and meet in their stack, between blocks;
  // bf16 when every tensor is; else f32.
  Result<void> add_matrices(std::span<const MatrixRequest> requests);
  Result<void> add_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols,
                          const TensorPart& part = {});
  // bf16 or f32: of codes, f32.
  Result<void> add_plain_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols,
                                const TensorPart& part = {});
  Result<void> add_f32_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols);
  Result<void> add_vector(std::span<const float>* out, std::string name, int64_t size, DummyFill fill,
                          IndexRange part = {});
  // Of codes: f32, which is exact, on the host; bf16 on a device, whose kernels of few rows it serves.
  Result<void> add_kv_up(const KvUpRequest& request);

  // What is added from here on goes to an arena of its own.
  void begin_block() { block_bytes_.push_back(0); }

  int64_t bytes() const;  // that running it allocates
  // Allocates, fills, and sets every `out`. Code::cancelled when progress.cancel was set.
  Result<Arena> run(LoadProgress& progress);  // without blocks
  Result<std::vector<Arena>> run_blocks(LoadProgress& progress);

 private:
  // A whole tensor [rows, cols]; of codes, with its scales [fp8_blocks(rows), fp8_blocks(cols)].
  struct Source {
    std::string name;
    SourceTensor tensor;
    std::optional<SourceTensor> scales;
    int64_t rows = 0, cols = 0;
  };
  // A part of a tensor and where it goes in its item.
  struct Piece {
    Source source;
    int64_t first_row = 0, first_col = 0;
    int64_t rows = 0, cols = 0;
    int64_t target_element = 0;
    bool transpose = false;
    bool between_blocks = true;  // of codes: it begins where a block does, in the tensor and in its item
  };
  struct ScalesOf {
    WeightView* matrix = nullptr;
  };
  struct Item {
    std::variant<WeightView*, std::span<const float>*, ScalesOf> out;
    DType dtype = DType::f32;
    int64_t rows = 0, cols = 0;
    size_t block = 0;
    int64_t arena_offset = 0;  // in the block's
    int64_t bytes() const { return rows * cols * dtype_bytes(dtype); }
    std::vector<Piece> pieces;
  };

  Result<Source> find_matrix(std::string name, int64_t rows, int64_t cols, DummyFill fill);
  Result<Item> plan_item(const MatrixRequest& request, DummyFill fill);
  // What a tensor becomes where codes cannot stay.
  static DType plain_dtype(const Source& source);
  DType common_dtype(std::span<const Item> items) const;
  void push(Item item);
  Result<MemoryBlock> staging() const;
  Result<void> fill(const Item& item, std::byte* base, LoadProgress& progress);
  Result<void> copy(const Piece& piece, DType dtype, std::byte* target, LoadProgress& progress);
  Result<void> copy_transposed(const Piece& piece, DType dtype, std::byte* target, LoadProgress& progress);
  Result<void> read_rows(const Piece& piece, int64_t first, int64_t count, DType dtype, std::byte* target,
                         LoadProgress& progress);
  Result<void> dequantise(const Piece& piece, int64_t first, int64_t count, DType dtype, std::byte* target);
  Result<void> copy_scales(const Piece& piece, int64_t stride, float* target);
  Result<std::span<const float>> read_scales(const Source& source);

  TensorSource* source_;
  DeviceMemory* device_;
  std::vector<Item> items_;
  std::vector<int64_t> block_bytes_;
  int64_t source_bytes_ = 0;
  std::vector<std::byte> scratch_;      // a chunk as stored
  std::vector<std::byte> transposing_;  // a piece before its transposition
  std::vector<float> scales_, row_;     // of the source read last; a row being dequantised
  std::optional<size_t> scales_id_;     // whose tensor scales_ holds
};

}  // namespace guildhall
