#include "model/load_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "kernels/convert.h"
#include "kernels/fp8.h"

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
         (type == SourceType::bf16 && dtype == DType::bf16) ||
         (type == SourceType::e4m3 && dtype == DType::e4m3);
}

// Whether a code among them is e4m3's NaN, 0x7f with either sign; eight at a time.
bool has_nan(std::span<const std::byte> codes) {
  uint64_t found = 0;
  size_t i = 0;
  for (; i + 8 <= codes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, codes.data() + i, 8);
    found |= ((word & 0x7f7f7f7f7f7f7f7fULL) + 0x0101010101010101ULL) & 0x8080808080808080ULL;
  }
  for (; i < codes.size(); ++i) found |= (codes[i] & std::byte{0x7f}) == std::byte{0x7f} ? 1 : 0;
  return found != 0;
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

int64_t fp8_matrix_bytes(int64_t rows, int64_t cols) {
  const int64_t scales = fp8_blocks(rows) * fp8_scale_stride(cols);
  return align_weight(rows * cols) + align_weight(scales * dtype_bytes(DType::f32));
}

void LoadPlan::push(Item item) {
  if (block_bytes_.empty()) begin_block();
  item.block = block_bytes_.size() - 1;
  item.arena_offset = block_bytes_.back();
  block_bytes_.back() += align_weight(item.bytes());
  const bool is_scales = std::holds_alternative<ScalesOf>(item.out);  // they are not counted as progress
  for (const Piece& piece : item.pieces)
    if (!is_scales) source_bytes_ += piece.rows * piece.cols * source_type_bytes(piece.source.tensor.type);
  items_.push_back(std::move(item));
  if (items_.back().dtype != DType::e4m3) return;

  const Item& codes = items_.back();
  Item scales{.out = ScalesOf{std::get<WeightView*>(codes.out)},
              .rows = fp8_blocks(codes.rows),
              .cols = fp8_scale_stride(codes.cols)};
  for (Piece piece : codes.pieces) {
    piece.target_element = piece.target_element / codes.cols / kFp8BlockSize * scales.cols;
    scales.pieces.push_back(std::move(piece));
  }
  push(std::move(scales));
}

Result<LoadPlan::Source> LoadPlan::find_matrix(std::string name, int64_t rows, int64_t cols, DummyFill fill) {
  const std::array<int64_t, 2> shape{rows, cols};
  Source source{.name = std::move(name), .rows = rows, .cols = cols};
  GH_ASSIGN(source.tensor, source_->find(source.name, shape, fill));
  if (source.tensor.type != SourceType::e4m3) return source;

  const std::string scale_name = source.name + "_scale_inv";
  const std::array<int64_t, 2> blocks{fp8_blocks(rows), fp8_blocks(cols)};
  Result<SourceTensor> scales = source_->find(scale_name, blocks, DummyFill::scales);
  if (scales.has_error())
    return Status{scales.error().code,
                  fmt::format("{}; {} is F8_E4M3 and needs a scale for each of its {}x{} blocks of 128x128",
                              scales.error().message, source.name, blocks[0], blocks[1])};
  if (scales->type == SourceType::e4m3)
    return Status{
        Code::unsupported,
        fmt::format("tensor {} has dtype F8_E4M3, but scales must be F32, BF16 or F16", scale_name)};
  source.scales = *scales;
  return source;
}

Result<LoadPlan::Item> LoadPlan::plan_item(const MatrixRequest& request, DummyFill fill) {
  const IndexRange rows = or_all(request.part.rows, request.rows);
  const IndexRange cols = or_all(request.part.cols, request.cols);
  Item item{.out = request.out, .cols = cols.size()};
  for (const std::string& name : request.names) {
    GH_ASSIGN(Source source, find_matrix(name, request.rows, request.cols, fill));
    item.pieces.push_back({.source = std::move(source),
                           .first_row = rows.begin,
                           .first_col = cols.begin,
                           .rows = rows.size(),
                           .cols = cols.size(),
                           .target_element = item.rows * item.cols,
                           .between_blocks = (rows.begin | cols.begin | item.rows) % kFp8BlockSize == 0});
    item.rows += rows.size();
  }
  return item;
}

DType LoadPlan::plain_dtype(const Source& source) {
  return source.tensor.type == SourceType::bf16 ? DType::bf16 : DType::f32;
}

DType LoadPlan::common_dtype(std::span<const Item> items) const {
  bool all_codes = true;
  DType plain = DType::bf16;
  for (const Item& item : items) {
    for (const Piece& piece : item.pieces) {
      all_codes = all_codes && piece.source.tensor.type == SourceType::e4m3 && piece.between_blocks;
      if (plain_dtype(piece.source) == DType::f32) plain = DType::f32;
    }
  }
  return all_codes ? DType::e4m3 : plain;
}

Result<void> LoadPlan::add_matrices(std::span<const MatrixRequest> requests) {
  std::vector<Item> items;
  for (const MatrixRequest& request : requests) {
    GH_ASSIGN(Item item, plan_item(request, DummyFill::random));
    items.push_back(std::move(item));
  }
  const DType dtype = common_dtype(items);
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

Result<void> LoadPlan::add_plain_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols,
                                        const TensorPart& part) {
  GH_ASSIGN(Item item, plan_item({out, {std::move(name)}, rows, cols, part}, DummyFill::plain));
  item.dtype = plain_dtype(item.pieces.front().source);
  push(std::move(item));
  return {};
}

Result<void> LoadPlan::add_f32_matrix(WeightView* out, std::string name, int64_t rows, int64_t cols) {
  GH_ASSIGN(Item item, plan_item({out, {std::move(name)}, rows, cols}, DummyFill::plain));
  push(std::move(item));
  return {};
}

Result<void> LoadPlan::add_vector(std::span<const float>* out, std::string name, int64_t size, DummyFill fill,
                                  IndexRange part) {
  GH_ASSIGN(const SourceTensor tensor, source_->find(name, {&size, 1}, fill));
  if (tensor.type == SourceType::e4m3)
    return Status{Code::unsupported,
                  fmt::format("tensor {} has dtype F8_E4M3, but vectors must be F32, BF16 or F16", name)};
  const IndexRange taken = or_all(part, size);
  Piece piece{.source = {.name = std::move(name), .tensor = tensor, .rows = 1, .cols = size},
              .first_col = taken.begin,
              .rows = 1,
              .cols = taken.size()};
  push({.out = out, .rows = 1, .cols = taken.size(), .pieces = {std::move(piece)}});
  return {};
}

Result<void> LoadPlan::add_kv_up(const KvUpRequest& request) {
  const int64_t nope = request.nope_dim, value = request.value_dim, rank = request.rank;
  GH_ASSIGN(const Source source,
            find_matrix(request.name, request.heads * (nope + value), rank, DummyFill::random));
  const bool round = source.tensor.type == SourceType::e4m3 && !device_->is_host();
  const DType dtype = round ? DType::bf16 : plain_dtype(source);
  const IndexRange part = or_all(request.part, request.heads);
  Item keys{.out = request.k_up_hrn, .dtype = dtype, .rows = part.size() * rank, .cols = nope};
  Item values{.out = request.v_up_hdr, .dtype = dtype, .rows = part.size() * value, .cols = rank};
  for (int64_t head = 0; head < part.size(); ++head) {
    const int64_t first = (part.begin + head) * (nope + value);
    keys.pieces.push_back({.source = source,
                           .first_row = first,
                           .rows = nope,
                           .cols = rank,
                           .target_element = head * rank * nope,
                           .transpose = true});
    values.pieces.push_back({.source = source,
                             .first_row = first + nope,
                             .rows = value,
                             .cols = rank,
                             .target_element = head * value * rank});
  }
  push(std::move(keys));
  push(std::move(values));
  return {};
}

// A source's scales, row by row of blocks; valid until the next call.
Result<std::span<const float>> LoadPlan::read_scales(const Source& source) {
  if (scales_id_ == source.scales->id) return std::span<const float>(scales_);
  scales_id_.reset();
  const SourceType type = source.scales->type;
  const int64_t count = fp8_blocks(source.rows) * fp8_blocks(source.cols);
  scales_.resize(static_cast<size_t>(count));
  if (type == SourceType::f32) {
    GH_TRY(source_->read(*source.scales, 0, std::as_writable_bytes(std::span(scales_))));
  } else {
    std::vector<std::byte> stored(static_cast<size_t>(count * source_type_bytes(type)));
    GH_TRY(source_->read(*source.scales, 0, stored));
    widen(type, stored.data(), count, scales_.data());
  }
  scales_id_ = source.scales->id;
  return std::span<const float>(scales_);
}

// Codes of rows [first, first + count) of a piece, which scratch_ holds, to dtype.
Result<void> LoadPlan::dequantise(const Piece& piece, int64_t first, int64_t count, DType dtype,
                                  std::byte* target) {
  GH_ASSIGN(const std::span<const float> scales, read_scales(piece.source));
  const int64_t blocks = fp8_blocks(piece.source.cols);
  row_.resize(static_cast<size_t>(piece.cols));
  for (int64_t r = 0; r < count; ++r) {
    const auto* codes = reinterpret_cast<const uint8_t*>(scratch_.data()) + r * piece.cols;
    const float* scale = scales.data() + (piece.first_row + first + r) / kFp8BlockSize * blocks;
    for (int64_t at = 0, next = 0; at < piece.cols; at = next) {
      const int64_t block = (piece.first_col + at) / kFp8BlockSize;
      next = std::min(piece.cols, (block + 1) * kFp8BlockSize - piece.first_col);
      const auto size = static_cast<size_t>(next - at);
      from_fp8_cpu({codes + at, size}, {scale + block, 1}, {row_.data() + at, size});
    }
    std::byte* const out = target + r * piece.cols * dtype_bytes(dtype);
    if (dtype == DType::f32)
      std::memcpy(out, row_.data(), row_.size() * sizeof(float));
    else
      to_bf16_cpu(row_, reinterpret_cast<bf16*>(out));
  }
  return {};
}

// Rows [first, first + count) of a piece; more than one only where they lie together.
Result<void> LoadPlan::read_rows(const Piece& piece, int64_t first, int64_t count, DType dtype,
                                 std::byte* target, LoadProgress& progress) {
  if (progress.cancel.load(std::memory_order_relaxed))
    return Status{Code::cancelled, "loading weights was cancelled"};
  const Source& source = piece.source;
  const SourceType type = source.tensor.type;
  const int64_t first_element = (piece.first_row + first) * source.cols + piece.first_col;
  const auto bytes = static_cast<size_t>(count * piece.cols * source_type_bytes(type));
  const bool as_stored = stored_as(type, dtype);
  if (!as_stored) scratch_.resize(std::max(scratch_.size(), bytes));
  const std::span<std::byte> stored(as_stored ? target : scratch_.data(), bytes);
  GH_TRY(source_->read(source.tensor, first_element * source_type_bytes(type), stored));
  if (type == SourceType::e4m3 && has_nan(stored))
    return Status{Code::invalid_argument,
                  fmt::format("tensor {} holds a NaN; the checkpoint is damaged", source.name)};
  if (type == SourceType::e4m3 && !as_stored) {
    GH_TRY(dequantise(piece, first, count, dtype, target));
  } else if (!as_stored) {
    widen(type, stored.data(), count * piece.cols, reinterpret_cast<float*>(target));
  }
  progress.bytes_done.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  return {};
}

Result<void> LoadPlan::copy(const Piece& piece, DType dtype, std::byte* target, LoadProgress& progress) {
  const bool adjacent = piece.cols == piece.source.cols;
  const int64_t most = adjacent ? std::max<int64_t>(1, kChunkElements / piece.cols) : 1;
  for (int64_t first = 0; first < piece.rows; first += most) {
    const int64_t count = std::min(most, piece.rows - first);
    GH_TRY(read_rows(piece, first, count, dtype, target + first * piece.cols * dtype_bytes(dtype), progress));
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
Result<MemoryBlock> LoadPlan::staging() const {
  if (device_->is_host()) return MemoryBlock{};
  int64_t largest = 0;
  for (const Item& item : items_) largest = std::max(largest, align_weight(item.bytes()));
  return host_memory().allocate(largest);
}

Result<void> LoadPlan::fill(const Item& item, std::byte* base, LoadProgress& progress) {
  const bool is_scales = std::holds_alternative<ScalesOf>(item.out);
  if (is_scales) std::memset(base, 0, static_cast<size_t>(item.rows * item.cols) * sizeof(float));
  for (const Piece& piece : item.pieces) {
    std::byte* target = base + piece.target_element * dtype_bytes(item.dtype);
    if (is_scales) {
      GH_TRY(copy_scales(piece, item.cols, reinterpret_cast<float*>(target)));
    } else {
      GH_TRY(piece.transpose ? copy_transposed(piece, item.dtype, target, progress)
                             : copy(piece, item.dtype, target, progress));
    }
  }
  return {};
}

// Row by row of blocks to the wider rows that kernels read.
Result<void> LoadPlan::copy_scales(const Piece& piece, int64_t stride, float* target) {
  GH_ASSIGN(const std::span<const float> scales, read_scales(piece.source));
  const int64_t blocks = fp8_blocks(piece.source.cols);
  const float* from =
      scales.data() + piece.first_row / kFp8BlockSize * blocks + piece.first_col / kFp8BlockSize;
  for (int64_t row = 0; row < fp8_blocks(piece.rows); ++row)
    std::copy_n(from + row * blocks, fp8_blocks(piece.cols), target + row * stride);
  return {};
}

int64_t LoadPlan::bytes() const {
  return std::accumulate(block_bytes_.begin(), block_bytes_.end(), int64_t{0});
}

Result<Arena> LoadPlan::run(LoadProgress& progress) {
  GH_CHECK(block_bytes_.size() <= 1);
  GH_ASSIGN(std::vector<Arena> arenas, run_blocks(progress));
  return arenas.empty() ? Arena() : std::move(arenas.front());
}

Result<std::vector<Arena>> LoadPlan::run_blocks(LoadProgress& progress) {
  progress.bytes_total.fetch_add(source_bytes_, std::memory_order_relaxed);
  GH_TRY(Arena::check_available(bytes(), *device_));
  GH_ASSIGN(const MemoryBlock staged, staging());
  std::vector<Arena> arenas(block_bytes_.size());
  for (const Item& item : items_) {
    Arena& arena = arenas[item.block];
    if (arena.data() == nullptr) {
      GH_ASSIGN(arena, Arena::allocate(block_bytes_[item.block], *device_));
    }
    std::byte* base = arena.data() + item.arena_offset;
    std::byte* const at_host = staged ? staged.get() : base;
    const auto bytes = static_cast<size_t>(item.bytes()),
               padded = static_cast<size_t>(align_weight(item.bytes()));
    GH_TRY(fill(item, at_host, progress));
    std::memset(at_host + bytes, 0, padded - bytes);
    if (staged) {
      GH_TRY(device_->upload({at_host, padded}, base));
    }
    if (WeightView* const* matrix = std::get_if<WeightView*>(&item.out)) {
      **matrix = {base, item.dtype, item.rows, item.cols};
    } else if (const ScalesOf* scales = std::get_if<ScalesOf>(&item.out)) {
      scales->matrix->scale_bb = reinterpret_cast<const float*>(base);  // after the codes' own item
    } else {
      *std::get<std::span<const float>*>(item.out) = {reinterpret_cast<const float*>(base),
                                                      static_cast<size_t>(item.cols)};
    }
  }
  return arenas;
}

}  // namespace guildhall
