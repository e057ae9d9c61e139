// kv_pages.h: one layer's paged KV cache: where each token's keys and values lie, in every element type.
// A row is one token's keys, or values, of one kv head; a page holds block_size * num_kv_heads of each.
//
// f32 and bf16: row ((page * block_size + slot) * num_kv_heads + kv_head) starts at k + row * k_dim elements;
// values likewise with v_stride.
//
// 8-bit codes (kv_codes.h): a page is three planes, each beginning at a multiple of 16 bytes, so that
// whatever copies pages (on write, to the host, between devices) takes the scales along:
//   codes  [rows, code_dim]     one byte each
//   tail   [rows, tail_dim]     bf16
//   scales [rows, groups]       fp32, one per 128 codes
// Of grouped queries there is no tail: one scale per token and kv head (of heads up to 128 wide), as in
// vLLM's fp8_per_token_head. MLA's latent vector has codes, with a scale per 128 as in vLLM's fp8_ds_mla, and
// the part of the key that carries the position stays bf16 as there: it is not normalised, all heads share
// its 64 elements, and it is a ninth of the key. (KIVI, Liu et al. 2024, scales keys per channel over many
// tokens, which would make a token's bits depend on its neighbours.)
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace guildhall {

struct KvPages {
  DType dtype = DType::bf16;
  int64_t num_pages = 0, block_size = 0, num_kv_heads = 0;
  int64_t k_dim = 0;     // per head
  int64_t v_dim = 0;     // per head
  int64_t v_stride = 0;  // elements from one kv head's values to the next (== k_dim when values alias keys)
  void* k = nullptr;
  void* v = nullptr;  // MLA: == k
};

inline constexpr int64_t kKvGroup = 128;  // codes of one scale

GH_HOST_DEVICE constexpr bool is_kv_codes(DType dtype) {
  return dtype == DType::e4m3 || dtype == DType::int8;
}

// What a page of keys, or of values, consists of.
struct KvPageLayout {
  int64_t code_dim = 0, tail_dim = 0;         // elements of a row; without codes their sum counts
  int64_t tail_offset = 0, scale_offset = 0;  // bytes from the page's begin; of codes only
  int64_t page_bytes = 0;

  GH_HOST_DEVICE constexpr int64_t groups() const { return (code_dim + kKvGroup - 1) / kKvGroup; }
};
GH_HOST_DEVICE constexpr KvPageLayout kv_page_layout(DType dtype, int64_t rows, int64_t code_dim,
                                                     int64_t tail_dim) {
  KvPageLayout layout{code_dim, tail_dim};
  if (!is_kv_codes(dtype)) {
    layout.page_bytes = rows * (code_dim + tail_dim) * dtype_bytes(dtype);
    return layout;
  }
  constexpr int64_t kAlign = 16;
  layout.tail_offset = (rows * code_dim + kAlign - 1) / kAlign * kAlign;
  layout.scale_offset = layout.tail_offset + (rows * tail_dim * 2 + kAlign - 1) / kAlign * kAlign;
  layout.page_bytes = layout.scale_offset + (rows * layout.groups() * 4 + kAlign - 1) / kAlign * kAlign;
  return layout;
}
// MLA's values are the codes of its keys.
GH_HOST_DEVICE constexpr KvPageLayout key_layout(const KvPages& pages) {
  const int64_t tail = pages.v == pages.k ? pages.k_dim - pages.v_dim : 0;
  return kv_page_layout(pages.dtype, pages.block_size * pages.num_kv_heads, pages.k_dim - tail, tail);
}
GH_HOST_DEVICE constexpr KvPageLayout value_layout(const KvPages& pages) {
  if (pages.v == pages.k) return key_layout(pages);
  return kv_page_layout(pages.dtype, pages.block_size * pages.num_kv_heads, pages.v_dim, 0);
}

// A row of codes: [code_dim], [tail_dim], [groups].
struct KvCodeRow {
  uint8_t* code;
  bf16* tail;
  float* scale;
};
// `row` counts from the pool's first, as above.
GH_HOST_DEVICE inline KvCodeRow kv_code_row(void* data, const KvPageLayout& layout, int64_t rows_per_page,
                                            int64_t row) {
  std::byte* const page = static_cast<std::byte*>(data) + row / rows_per_page * layout.page_bytes;
  const int64_t in_page = row % rows_per_page;
  return {reinterpret_cast<uint8_t*>(page + in_page * layout.code_dim),
          reinterpret_cast<bf16*>(page + layout.tail_offset) + in_page * layout.tail_dim,
          reinterpret_cast<float*>(page + layout.scale_offset) + in_page * layout.groups()};
}

}  // namespace guildhall
