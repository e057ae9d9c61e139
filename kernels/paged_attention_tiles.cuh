// paged_attention_tiles.cuh: how a block brings keys and values from the pages into shared memory: as bf16
// whatever pages hold, a tile of positions at a time, with the next one on its way while one is used. bf16
// rows are copied to one of two tiles. Codes are copied as they are to one of two stages, and from there
// widened, times their scale, into the one tile: half the bytes are on their way, and products are those of
// bf16.
#pragma once

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/paged_attention_cuda.cuh"

namespace guildhall {

// Elements from one row to the next in shared memory, for rows of up to `dim` used elements: 16 bytes more
// than a multiple of 32, so that the 8 rows of a matrix start in different banks.
GH_HOST_DEVICE constexpr int shared_pitch(int64_t dim) { return static_cast<int>((dim + 15) / 16 * 16 + 8); }

// Copies positions [begin, begin + kKeys) of a sequence's keys (or values) into rows of `pitch` elements;
// zeros from `end` on. A warp takes every kWarps-th row.
template <int kWarps, int kKeys>
__device__ void copy_positions(AsyncCopies& copies, const AttentionArgs& args, const bf16* data,
                               int64_t stride, int64_t dim, int64_t sequence, int64_t kv_head, int64_t begin,
                               int64_t end, bf16* to, int pitch) {
  constexpr int kTogether =
      4;  // rows whose pages are looked up before the first copy has to wait for its own
  static_assert(kKeys % (kWarps * kTogether) == 0);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const KvPages& pages = args.pages;
  GH_ROLLED
  for (int first = warp; first < kKeys; first += kWarps * kTogether) {
    const bf16* from[kTogether];
    GH_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int64_t position = begin + first + i * kWarps;
      const auto block = static_cast<uint32_t>(position) / static_cast<uint32_t>(pages.block_size);
      const int64_t slot = position - int64_t{block} * pages.block_size;
      const int64_t page = position < end ? args.block_table_sb(sequence, block) : 0;
      from[i] = data + ((page * pages.block_size + slot) * pages.num_kv_heads + kv_head) * stride;
    }
    GH_ROLLED
    for (int at = lane * 8; at < dim; at += kWarp * 8) {
      GH_UNROLL
      for (int i = 0; i < kTogether; ++i) {
        const int row = first + i * kWarps;
        const bool valid = begin + row < end;
        copies.copy16(to + row * pitch + at, valid ? from[i] + at : data, valid);
      }
    }
  }
}

// Two codes, bytes 2 * pair and 2 * pair + 1 of a word, times their scale.
__device__ inline uint32_t codes_to_bf16(bool is_int8, uint32_t codes, int pair, float scale) {
  if (is_int8) {
    constexpr uint32_t kWhole = 0x4b000000u;  // 2^23: what is or-ed to it adds up, exactly
    const uint32_t biased = codes >> (16 * pair) ^ 0x8080u;
    return pack_bf16((__uint_as_float(kWhole | (biased & 0xffu)) - 8388736.0f) * scale,
                     (__uint_as_float(kWhole | (biased >> 8 & 0xffu)) - 8388736.0f) * scale);
  }
  const uint32_t exact = e4m3_pair_to_bf16(codes, pair);
  return pack_bf16(low_bf16(exact) * scale, high_bf16(exact) * scale);
}

// Codes of a tile on their way, in shared memory: planes as in a page, of kKeys rows.
template <int kKeys>
struct CodeStage {
  KvPageLayout layout;  // of the pages
  int codes, tail, groups;

  GH_HOST_DEVICE explicit CodeStage(const KvPageLayout& of_pages)
      : layout(of_pages),
        codes(static_cast<int>(of_pages.code_dim)),
        tail(static_cast<int>(of_pages.tail_dim)),
        groups(static_cast<int>(of_pages.groups())) {}
  GH_HOST_DEVICE int bytes() const { return kKeys * (codes + 2 * tail + 4 * groups); }

  // Starts copying positions [begin, begin + kKeys); zeros from `end` on.
  template <int kThreads>
  __device__ void copy(AsyncCopies& copies, const AttentionArgs& args, const void* data, int64_t sequence,
                       int64_t kv_head, int64_t begin, int64_t end, unsigned char* to) const {
    const KvPages& pages = args.pages;
    const int of_codes = codes / 16, of_tail = tail / 8, pieces = of_codes + of_tail + groups;
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * pieces; i += kThreads) {
      const int key = i / pieces, piece = i % pieces;
      const bool valid = begin + key < end;
      const auto position = static_cast<uint32_t>(valid ? begin + key : 0);
      const uint32_t block = position / static_cast<uint32_t>(pages.block_size);
      const int64_t slot = position - block * static_cast<uint32_t>(pages.block_size);
      const int64_t page = valid ? args.block_table_sb(sequence, block) : 0;
      const int64_t row = slot * pages.num_kv_heads + kv_head;
      const auto* from = static_cast<const unsigned char*>(data) + page * layout.page_bytes;
      if (piece < of_codes) {
        copies.copy16(to + key * codes + piece * 16, from + row * codes + piece * 16, valid);
      } else if (piece < of_codes + of_tail) {
        const int at = (piece - of_codes) * 16;
        copies.copy16(to + kKeys * codes + key * 2 * tail + at,
                      from + layout.tail_offset + row * 2 * tail + at, valid);
      } else {
        const int at = (piece - of_codes - of_tail) * 4;
        copies.copy4(to + kKeys * (codes + 2 * tail) + key * 4 * groups + at,
                     from + layout.scale_offset + row * 4 * groups + at, valid);
      }
    }
  }

  // What has arrived, as bf16, into rows of `pitch` elements.
  template <int kThreads>
  __device__ void widen(bool is_int8, const unsigned char* from, bf16* to, int pitch) const {
    const auto* scale = reinterpret_cast<const float*>(from + kKeys * (codes + 2 * tail));
    const int of_codes = codes / 8, of_tail = tail / 8, pieces = of_codes + of_tail;
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * pieces; i += kThreads) {
      const int key = i / pieces, piece = i % pieces;
      Pack<uint32_t, 4> wide;  // eight elements
      if (piece < of_codes) {
        const auto eight = load_pack<2>(reinterpret_cast<const uint32_t*>(from + key * codes) + piece * 2);
        const float s = scale[key * groups + piece * 8 / static_cast<int>(kKvGroup)];
        GH_UNROLL
        for (int j = 0; j < 4; ++j) wide.v[j] = codes_to_bf16(is_int8, eight.v[j / 2], j % 2, s);
      } else {
        const auto* rows = reinterpret_cast<const uint32_t*>(from + kKeys * codes + key * 2 * tail);
        wide = load_pack<4>(rows + (piece - of_codes) * 4);
      }
      store_pack(reinterpret_cast<uint32_t*>(to + key * pitch) + piece * 4, wide);
    }
  }
};

// A block's tiles of kKeys positions.
template <int kWarps, int kKeys, bool kCodes>
class KeyTiles {
 public:
  static constexpr int kThreads = kWarps * kWarp;

  GH_HOST_DEVICE explicit KeyTiles(const KvPages& pages)
      : k_pitch(shared_pitch(pages.k_dim)),
        v_pitch(pages.v == pages.k ? 0 : shared_pitch(pages.v_dim)),
        keys_(key_layout(pages)),
        values_(value_layout(pages)) {}
  // Of shared memory.
  GH_HOST_DEVICE size_t bytes() const {
    return kCodes ? tile_bytes() + 2 * static_cast<size_t>(stage_bytes()) : 2 * tile_bytes();
  }

  const int k_pitch, v_pitch;  // elements from row to row; v_pitch 0: values are the first elements of keys

  // `memory` is bytes() long, aligned to 16, and free once all threads are past a barrier.
  __device__ void place(const AttentionArgs& args, unsigned char* memory) {
    args_ = &args;
    memory_ = memory;
    clear_padding();
  }
  // Positions [begin, end) of the rows' context are to be brought.
  __device__ void start(const QueryRows& rows, int64_t begin, int64_t end) {
    sequence_ = args_->sequence_t[rows.token_begin];
    kv_head_ = rows.kv_head;
    next_ = begin;
    end_ = end;
    stage_ = 0;
    if (next_ < end_) copy();
  }

  struct Tile {
    const bf16 *k, *v;  // [kKeys] rows of k_pitch, v_pitch; zeros beyond the end
  };
  // The next tile, as there is one, for all threads; it stays until they call again.
  __device__ Tile next() {
    copies_.template wait<0>();
    __syncthreads();  // the tile is here, and everybody is done with the one before
    const int stage = stage_;
    stage_ ^= 1;
    next_ += kKeys;
    if (next_ < end_) copy();
    if constexpr (kCodes) {
      widen(stage);
      return as_tile(tile_begin(0));
    } else {
      return as_tile(tile_begin(stage));
    }
  }

 private:
  GH_HOST_DEVICE size_t tile_bytes() const {
    return size_t{kKeys} * static_cast<size_t>(k_pitch + v_pitch) * sizeof(bf16);
  }
  GH_HOST_DEVICE int stage_bytes() const { return keys_.bytes() + (v_pitch > 0 ? values_.bytes() : 0); }
  __device__ bf16* tile_begin(int i) const { return reinterpret_cast<bf16*>(memory_ + i * tile_bytes()); }
  __device__ Tile as_tile(const bf16* k) const { return {k, v_pitch > 0 ? k + kKeys * k_pitch : k}; }
  __device__ unsigned char* stage_begin(int i) const { return memory_ + tile_bytes() + i * stage_bytes(); }

  // From a stage to the tile.
  __device__ void widen(int stage) {
    const unsigned char* from = stage_begin(stage);
    const bool is_int8 = args_->pages.dtype == DType::int8;
    keys_.template widen<kThreads>(is_int8, from, tile_begin(0), k_pitch);
    if (v_pitch > 0)
      values_.template widen<kThreads>(is_int8, from + keys_.bytes(), tile_begin(0) + kKeys * k_pitch,
                                       v_pitch);
    __syncthreads();
  }

  // Columns of the last step that no copy writes: zeros, as anything else may be NaN.
  __device__ void clear_padding() {
    const int k_dim = static_cast<int>(args_->pages.k_dim), padding = k_pitch - 8 - k_dim;
    for (int i = static_cast<int>(threadIdx.x); i < (kCodes ? 1 : 2) * kKeys * padding; i += kThreads) {
      const int row = i / padding;
      tile_begin(row / kKeys)[row % kKeys * k_pitch + k_dim + i % padding] = {};
    }
  }

  // Positions from next_ on, to stage_.
  __device__ void copy() {
    const KvPages& pages = args_->pages;
    if constexpr (kCodes) {
      unsigned char* to = stage_begin(stage_);
      keys_.template copy<kThreads>(copies_, *args_, pages.k, sequence_, kv_head_, next_, end_, to);
      if (v_pitch > 0)
        values_.template copy<kThreads>(copies_, *args_, pages.v, sequence_, kv_head_, next_, end_,
                                        to + keys_.bytes());
    } else {
      bf16* k = tile_begin(stage_);
      copy_positions<kWarps, kKeys>(copies_, *args_, static_cast<const bf16*>(pages.k), pages.k_dim,
                                    pages.k_dim, sequence_, kv_head_, next_, end_, k, k_pitch);
      if (v_pitch > 0)
        copy_positions<kWarps, kKeys>(copies_, *args_, static_cast<const bf16*>(pages.v), pages.v_stride,
                                      pages.v_dim, sequence_, kv_head_, next_, end_, k + kKeys * k_pitch,
                                      v_pitch);
    }
    copies_.commit();
  }

  const CodeStage<kKeys> keys_, values_;
  const AttentionArgs* args_ = nullptr;
  unsigned char* memory_ = nullptr;
  AsyncCopies copies_;
  int64_t sequence_ = 0, kv_head_ = 0, next_ = 0, end_ = 0;
  int stage_ = 0;
};

}  // namespace guildhall
