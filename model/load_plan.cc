#include "model/load_plan.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace guildhall {
namespace {

constexpr int64_t kChunkElements = 4 << 20;  // between two looks at `cancel`: some milliseconds of disk

// IEEE half precision; every value is exact in f32.
float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

// `count` stored elements to f32.
void widen(SourceType type, const std::byte* stored, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, stored + 2 * i, 2);
    out[i] = type == SourceType::bf16 ? to_float(bf16{bits}) : half_to_float(bits);
  }
}

bool stored_as(SourceType type, DType dtype) {
  return (type == SourceType::f32 && dtype == DType::f32) ||
         (type == SourceType::bf16 && dtype == DType::bf16);
}

IndexRange or_all(IndexRange part, int64_t size) { return part.size() == 0 ? IndexRange{0, size} : part; }

template <class T>
void transpose(const std::byte* from, int64_t rows, int64_t cols, std::byte* to) {
  const T* source = reinterpret_cast<const T*>(from);
  T* target = reinterpret_cast<T*>(to);
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) target[c * rows + r] = source[r * cols + c];
  }
}

}  // namespace

void LoadPlan::push(Item item) {
  item.arena_offset = arena_bytes_;
  arena_bytes_ += align_weight(item.rows * item.cols * dtype_bytes(item.dtype));
  for (const Piece& piece : item.pieces)
    source_bytes_ += piece.rows * piece.cols * source_type_bytes(piece.tensor.type);
  items_.push_back(std::move(item));
}

Result<void> LoadPlan::add_matrices(std::span<const MatrixRequest> requests) {
  std::vector<Item> items;
  DType dtype = DType::bf16;
  for (const MatrixRequest& request : requests) {
    const IndexRange rows = or_all(request.part.rows, request.rows);
    const IndexRange cols = or_all(request.part.cols, request.cols);
    Item item{.out = request.out, .cols = cols.size()};
    const std::array<int64_t, 2> shape{request.rows, request.cols};
    for (const std::string& name : request.names) {
      GH_ASSIGN(const SourceTensor tensor, source_->find(name, shape, DummyFill::random));
      if (tensor.type != SourceType::bf16) dtype = DType::f32;
      item.pieces.push_back({.tensor = tensor,
                             .source_element = rows.begin * request.cols + cols.begin,
                             .target_element = item.rows * item.cols,
                             .rows = rows.size(),
                             .cols = cols.size(),
                             .source_stride = request.cols});
      item.rows += rows.size();
    }
    items.push_back(std::move(item));
  }
  for (Item& item : items) {
    item.dtype = dtype;
    push(std::move(item));
  }
  return {};
}

Result<void> LoadPlan::add_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols,
                                  const TensorPart& part) {
  const MatrixRequest request{out, {std::move(name)}, rows, cols, part};
  return add_matrices({&request, 1});
}

Result<void> LoadPlan::add_f32_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols) {
  const std::array<int64_t, 2> shape{rows, cols};
  GH_ASSIGN(const SourceTensor tensor, source_->find(name, shape, DummyFill::random));
  push({.out = out, .rows = rows, .cols = cols, .pieces = {{.tensor = tensor, .rows = rows, .cols = cols}}});
  return {};
}

Result<void> LoadPlan::add_vector(std::span<const float>* out, std::string name, int64_t size, DummyFill fill,
                                  IndexRange part) {
  GH_ASSIGN(const SourceTensor tensor, source_->find(name, {&size, 1}, fill));
  const IndexRange taken = or_all(part, size);
  const Piece piece{.tensor = tensor, .source_element = taken.begin, .rows = 1, .cols = taken.size()};
  push({.out = out, .rows = 1, .cols = taken.size(), .pieces = {piece}});
  return {};
}

Result<void> LoadPlan::add_kv_up(const KvUpRequest& request) {
  const int64_t head_rows = request.nope_dim + request.value_dim;
  const std::array<int64_t, 2> shape{request.heads * head_rows, request.rank};
  GH_ASSIGN(const SourceTensor tensor, source_->find(request.name, shape, DummyFill::random));
  const DType dtype = tensor.type == SourceType::bf16 ? DType::bf16 : DType::f32;
  const IndexRange part = or_all(request.part, request.heads);
  Item keys{
      .out = request.k_up_hrn, .dtype = dtype, .rows = part.size() * request.rank, .cols = request.nope_dim};
  Item values{
      .out = request.v_up_hdr, .dtype = dtype, .rows = part.size() * request.value_dim, .cols = request.rank};
  for (int64_t head = 0; head < part.size(); ++head) {
    const int64_t source = (part.begin + head) * head_rows * request.rank;
    keys.pieces.push_back(
        {tensor, source, head * request.rank * request.nope_dim, request.nope_dim, request.rank, true});
    values.pieces.push_back({tensor, source + request.nope_dim * request.rank,
                             head * request.value_dim * request.rank, request.value_dim, request.rank,
                             false});
  }
  push(std::move(keys));
  push(std::move(values));
  return {};
}

Result<void> LoadPlan::read_chunk(const Piece& piece, int64_t first, int64_t count, DType dtype,
                                  std::byte* target, LoadProgress& progress) {
  if (progress.cancel.load(std::memory_order_relaxed))
    return Status{Code::cancelled, "loading weights was cancelled"};
  const int64_t element_bytes = source_type_bytes(piece.tensor.type);
  const int64_t offset = (piece.source_element + first) * element_bytes;
  const size_t bytes = static_cast<size_t>(count * element_bytes);
  if (stored_as(piece.tensor.type, dtype)) {
    GH_TRY(source_->read(piece.tensor, offset, {target, bytes}));
  } else {
    scratch_.resize(std::max(scratch_.size(), bytes));
    GH_TRY(source_->read(piece.tensor, offset, {scratch_.data(), bytes}));
    widen(piece.tensor.type, scratch_.data(), count, reinterpret_cast<float*>(target));
  }
  progress.bytes_done.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  return {};
}

Result<void> LoadPlan::copy(const Piece& piece, DType dtype, std::byte* target, LoadProgress& progress) {
  const bool adjacent = piece.source_stride == 0 || piece.source_stride == piece.cols;
  const int64_t num_runs = adjacent ? 1 : piece.rows;
  const int64_t elements = piece.rows * piece.cols / num_runs;
  for (int64_t run = 0; run < num_runs; ++run, target += elements * dtype_bytes(dtype))
    for (int64_t first = 0; first < elements; first += kChunkElements) {
      const int64_t count = std::min(kChunkElements, elements - first);
      GH_TRY(read_chunk(piece, run * piece.source_stride + first, count, dtype,
                        target + first * dtype_bytes(dtype), progress));
    }
  return {};
}

Result<void> LoadPlan::copy_transposed(const Piece& piece, DType dtype, std::byte* target,
                                       LoadProgress& progress) {
  transposing_.resize(static_cast<size_t>(piece.rows * piece.cols * dtype_bytes(dtype)));
  GH_TRY(copy(piece, dtype, transposing_.data(), progress));
  if (dtype == DType::f32) {
    transpose<float>(transposing_.data(), piece.rows, piece.cols, target);
  } else {
    transpose<bf16>(transposing_.data(), piece.rows, piece.cols, target);
  }
  return {};
}

// Where an item is put together on its way to a device that does not see the host's memory.
Result<MemoryBlock> LoadPlan::staging(const DeviceMemory& device) const {
  if (device.is_host()) return MemoryBlock{};
  int64_t largest = 0;
  for (const Item& item : items_)
    largest = std::max(largest, item.rows * item.cols * dtype_bytes(item.dtype));
  return host_memory().allocate(largest);
}

Result<void> LoadPlan::fill(const Item& item, std::byte* base, LoadProgress& progress) {
  for (const Piece& piece : item.pieces) {
    std::byte* target = base + piece.target_element * dtype_bytes(item.dtype);
    GH_TRY(piece.transpose ? copy_transposed(piece, item.dtype, target, progress)
                           : copy(piece, item.dtype, target, progress));
  }
  return {};
}

Result<Arena> LoadPlan::run(LoadProgress& progress, DeviceMemory& device) {
  progress.bytes_total.fetch_add(source_bytes_, std::memory_order_relaxed);
  GH_ASSIGN(Arena arena, Arena::allocate(arena_bytes_, device));
  GH_ASSIGN(const MemoryBlock staged, staging(device));
  for (const Item& item : items_) {
    std::byte* base = arena.data() + item.arena_offset;
    GH_TRY(fill(item, staged ? staged.get() : base, progress));
    if (staged) {
      const auto bytes = static_cast<size_t>(item.rows * item.cols * dtype_bytes(item.dtype));
      GH_TRY(device.upload({staged.get(), bytes}, base));
    }
    if (WeightView* const* matrix = std::get_if<WeightView*>(&item.out)) {
      **matrix = {base, item.dtype, item.rows, item.cols};
    } else {
      *std::get<std::span<const float>*>(item.out) = {reinterpret_cast<const float*>(base),
                                                      static_cast<size_t>(item.cols)};
    }
  }
  return arena;
}

}  // namespace guildhall
