// paged_attention_cpu.cc: shares the step's attention among the team.
// Work is cut into items: adjacent tokens of one sequence x the query heads of one kv head, so that each key
// is read once for all of them. An item walks its context in splits of kAttentionSplit positions; each split
// gives a partial result that depends on nothing else, and partials are merged in order. So it makes no
// difference to the bits whether one thread walks an item (many items) or the splits of an item are spread
// over the team and merged afterwards (few items with long contexts: one sequence's decode, MLA's single kv
// head).
#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "base/check.h"
#include "kernels/paged_attention.h"
#include "kernels/paged_attention_split.h"
#include "kernels/scratch.h"
#include "kernels/simd_dispatch.h"

namespace guildhall {

GH_PER_ISA(void attention_split(const AttentionSplit& split);
           void attention_merge(const float* part_d, float part_max, float part_denominator, int64_t dim,
                                float* sum_d, float* max_io, float* denominator_io);
           void attention_finish(float denominator, int64_t dim, float* sum_d);)

namespace {

static_assert(AttentionSplit::kKeys == kAttentionSplit && AttentionSplit::kScaled == kKvGroup);

KvElement element_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return KvElement::f32;
    case DType::bf16:
      return KvElement::bf16;
    case DType::e4m3:
      return KvElement::e4m3;
    case DType::int8:
      break;
  }
  return KvElement::int8;
}

// Where a split's keys and values lie.
struct KeyRows {
  std::array<const void*, kAttentionSplit> k_j, v_j;
  std::array<const float*, kAttentionSplit> k_scale_j, v_scale_j;  // of codes
  std::array<const uint16_t*, kAttentionSplit> k_tail_j;
};

// Rows (tokens x heads) of an item. At most kMaxRows, which bounds a thread's scratch: 128 rows x (128 scores
// + v_dim) + a block of 32 keys, 0.4 MB for DeepSeek-V3. Small groups take adjacent tokens up to kTileRows:
// enough to make reading and widening a key cheap beside using it.
constexpr int64_t kMaxRows = 128;
constexpr int64_t kTileRows = 32;
// Partial results of spread-out splits held at once, beyond which they are merged before going on.
constexpr int64_t kMaxPartialFloats = 2 << 20;

struct Tile {  // tokens [first, first + count) of one sequence at consecutive positions
  int64_t first, count;
};

struct Item {
  Tile tile;
  int64_t kv_head, first_head, num_heads;
  int64_t num_rows() const { return tile.count * num_heads; }
};

struct SplitRef {
  int64_t item;
  int64_t split;
};

// The caller's lists; they grow to the largest step seen.
struct Lists {
  std::vector<Tile> tiles;
  std::vector<SplitRef> splits;
  std::vector<float> partial;           // [splits of a wave][rows x (v_dim + 2)]
  std::vector<float> max, denominator;  // [items x rows]: running state of spread-out items
};

class Attention {
 public:
  Attention(View3<const float> q_thd, const AttentionBatch& batch, const KvPages& pages, float scale,
            View3<float> out_thd, Lists& lists)
      : q_thd_(q_thd), batch_(batch), pages_(pages), scale_(scale), out_thd_(out_thd), lists_(lists) {
    group_ = q_thd.dim1 / pages.num_kv_heads;
    heads_per_item_ = std::min(group_, kMaxRows);
    items_per_kv_head_ = (group_ + heads_per_item_ - 1) / heads_per_item_;
    const int64_t max_tokens = std::max<int64_t>(1, kTileRows / heads_per_item_);
    rows_per_item_ = heads_per_item_ * max_tokens;
    lists_.tiles.clear();
    for (int64_t t = 0; t < q_thd.dim0; ++t) {
      if (!lists_.tiles.empty() && continues(lists_.tiles.back(), t, max_tokens))
        ++lists_.tiles.back().count;
      else
        lists_.tiles.push_back({t, 1});
    }
  }

  void run(Team& team) {
    int64_t most = 0, total = 0;
    for (int64_t i = 0; i < num_items(); ++i) {
      most = std::max(most, num_splits(item(i)));
      total += num_splits(item(i));
    }
    // Whole items balance the team unless one is more than half of a thread's share.
    if (team.num_threads() > 1 && most > 1 && 2 * most * team.num_threads() > total) {
      spread(team);
    } else {
      const auto task = [&](int64_t i) { walk(item(i)); };
      team.parallel_for(num_items(), std::ref(task));
    }
  }

 private:
  bool continues(const Tile& tile, int64_t t, int64_t max_tokens) const {
    return tile.count < max_tokens && batch_.sequence_t[t] == batch_.sequence_t[t - 1] &&
           batch_.position_t[t] == batch_.position_t[t - 1] + 1;
  }

  // Tiles vary fastest: neighbours in time read the same kv head's context.
  int64_t num_items() const {
    return static_cast<int64_t>(lists_.tiles.size()) * pages_.num_kv_heads * items_per_kv_head_;
  }
  Item item(int64_t i) const {
    const auto num_tiles = static_cast<int64_t>(lists_.tiles.size());
    const int64_t kv_head = i / num_tiles / items_per_kv_head_;
    const int64_t in_group = i / num_tiles % items_per_kv_head_ * heads_per_item_;
    return {lists_.tiles[i % num_tiles], kv_head, kv_head * group_ + in_group,
            std::min(heads_per_item_, group_ - in_group)};
  }
  int64_t num_splits(const Item& item) const {
    return batch_.position_t[item.tile.first + item.tile.count - 1] / kAttentionSplit + 1;
  }
  int64_t token(const Item& item, int64_t r) const { return item.tile.first + r / item.num_heads; }
  float* out(const Item& item, int64_t r) const {
    return out_thd_.at(token(item, r), item.first_head + r % item.num_heads);
  }
  // Keys of the split that row r sees; 0 or less if the split lies beyond its position.
  int64_t visible(const Item& item, int64_t r, int64_t split) const {
    return std::min(batch_.position_t[token(item, r)] - split * kAttentionSplit + 1, kAttentionSplit);
  }

  int64_t scratch_floats() const {
    return rows_per_item_ * kAttentionSplit +
           AttentionSplit::kBlockKeys * std::max(pages_.k_dim, pages_.v_dim);
  }

  void find_rows(const Item& item, int64_t split, int64_t num_keys, KeyRows& rows) const {
    const int64_t sequence = batch_.sequence_t[item.tile.first];
    const int64_t rows_per_page = pages_.block_size * pages_.num_kv_heads;
    for (int64_t j = 0; j < num_keys; ++j) {
      const int64_t position = split * kAttentionSplit + j;
      const int64_t page = batch_.block_table_sb(sequence, position / pages_.block_size);
      const int64_t row =
          (page * pages_.block_size + position % pages_.block_size) * pages_.num_kv_heads + item.kv_head;
      if (is_kv_codes(pages_.dtype)) {
        const KvCodeRow key = kv_code_row(pages_.k, key_layout_, rows_per_page, row),
                        value = kv_code_row(pages_.v, value_layout_, rows_per_page, row);
        rows.k_j[j] = key.code;
        rows.v_j[j] = value.code;
        rows.k_scale_j[j] = key.scale;
        rows.v_scale_j[j] = value.scale;
        rows.k_tail_j[j] = &key.tail->bits;
      } else {
        rows.k_j[j] = static_cast<const char*>(pages_.k) + row * pages_.k_dim * dtype_bytes(pages_.dtype);
        rows.v_j[j] = static_cast<const char*>(pages_.v) + row * pages_.v_stride * dtype_bytes(pages_.dtype);
      }
    }
  }

  // The item's rows against one split, into sum_rd [R, v_dim], max_r, denominator_r. Rows that see none of it
  // are left untouched.
  void attend(const Item& item, int64_t split, float* scratch, float* sum_rd, float* max_r,
              float* denominator_r) const {
    std::array<const float*, kMaxRows> q_r;
    std::array<int32_t, kMaxRows> visible_r;
    KeyRows rows;
    int64_t first_row = 0, num_rows = item.num_rows();
    while (visible(item, first_row, split) <= 0) first_row += item.num_heads;
    for (int64_t r = first_row; r < num_rows; ++r) {
      q_r[r] = q_thd_.at(token(item, r), item.first_head + r % item.num_heads);
      visible_r[r] = static_cast<int32_t>(visible(item, r, split));
    }
    const int64_t num_keys = visible_r[num_rows - 1];
    find_rows(item, split, num_keys, rows);
    attention_split_({.q_r = q_r.data() + first_row,
                      .visible_r = visible_r.data() + first_row,
                      .num_rows = num_rows - first_row,
                      .k_j = rows.k_j.data(),
                      .v_j = rows.v_j.data(),
                      .num_keys = num_keys,
                      .k_dim = pages_.k_dim,
                      .v_dim = pages_.v_dim,
                      .element = element_of(pages_.dtype),
                      .scale = scale_,
                      .k_scale_j = rows.k_scale_j.data(),
                      .v_scale_j = rows.v_scale_j.data(),
                      .k_tail_j = rows.k_tail_j.data(),
                      .tail_dim = key_layout_.tail_dim,
                      .score_rj = scratch,
                      .block_jd = scratch + rows_per_item_ * kAttentionSplit,
                      .sum_rd = sum_rd + first_row * pages_.v_dim,
                      .max_r = max_r + first_row,
                      .denominator_r = denominator_r + first_row});
  }

  // Row r takes in its part of a split. The first split's is taken as it is.
  void take_in(const Item& item, int64_t r, int64_t split, const float* part_d, float part_max,
               float part_denominator, float* max_io, float* denominator_io) const {
    if (split == 0) {
      std::copy_n(part_d, pages_.v_dim, out(item, r));
      *max_io = part_max;
      *denominator_io = part_denominator;
    } else if (visible(item, r, split) > 0) {
      attention_merge_(part_d, part_max, part_denominator, pages_.v_dim, out(item, r), max_io,
                       denominator_io);
    }
  }

  void walk(const Item& item) const {
    std::array<float, kMaxRows> part_max, part_denominator, max, denominator;
    float* scratch = thread_scratch(scratch_floats() + rows_per_item_ * pages_.v_dim);
    float* part_rd = scratch + scratch_floats();
    for (int64_t split = 0; split < num_splits(item); ++split) {
      attend(item, split, scratch, part_rd, part_max.data(), part_denominator.data());
      for (int64_t r = 0; r < item.num_rows(); ++r)
        take_in(item, r, split, part_rd + r * pages_.v_dim, part_max[r], part_denominator[r], &max[r],
                &denominator[r]);
    }
    for (int64_t r = 0; r < item.num_rows(); ++r)
      attention_finish_(denominator[r], pages_.v_dim, out(item, r));
  }

  // All items, their splits spread over the team in waves of bounded memory.
  void spread(Team& team) {
    lists_.splits.clear();
    for (int64_t i = 0; i < num_items(); ++i)
      for (int64_t split = 0; split < num_splits(item(i)); ++split) lists_.splits.push_back({i, split});
    const auto state_size = static_cast<size_t>(num_items() * rows_per_item_);
    if (lists_.max.size() < state_size) {
      lists_.max.resize(state_size);
      lists_.denominator.resize(state_size);
    }
    const int64_t partial_floats = rows_per_item_ * (pages_.v_dim + 2);
    const int64_t wave = std::max<int64_t>(team.num_threads(), kMaxPartialFloats / partial_floats);
    const auto num_all = static_cast<int64_t>(lists_.splits.size());
    const auto partial_size = static_cast<size_t>(std::min(wave, num_all) * partial_floats);
    if (lists_.partial.size() < partial_size) lists_.partial.resize(partial_size);

    for (int64_t begin = 0; begin < num_all; begin += wave) {
      const int64_t end = std::min(begin + wave, num_all);
      const auto compute = [&](int64_t i) {
        const SplitRef& ref = lists_.splits[begin + i];
        float* part = lists_.partial.data() + i * partial_floats;
        float* part_max = part + rows_per_item_ * pages_.v_dim;
        attend(item(ref.item), ref.split, thread_scratch(scratch_floats()), part, part_max,
               part_max + rows_per_item_);
      };
      team.parallel_for(end - begin, std::ref(compute));
      const auto merge = [&](int64_t r) { merge_wave(begin, end, r); };
      team.parallel_for(rows_per_item_, std::ref(merge));
    }
  }

  // Row r of every item takes in the wave's partials in order, and is finished after its item's last split.
  void merge_wave(int64_t begin, int64_t end, int64_t r) const {
    const int64_t partial_floats = rows_per_item_ * (pages_.v_dim + 2);
    for (int64_t i = begin; i < end; ++i) {
      const SplitRef& ref = lists_.splits[i];
      const Item the_item = item(ref.item);
      if (r >= the_item.num_rows()) continue;
      const float* part = lists_.partial.data() + (i - begin) * partial_floats;
      const float* part_max = part + rows_per_item_ * pages_.v_dim;
      const int64_t state = ref.item * rows_per_item_ + r;
      take_in(the_item, r, ref.split, part + r * pages_.v_dim, part_max[r], part_max[rows_per_item_ + r],
              &lists_.max[state], &lists_.denominator[state]);
      if (ref.split == num_splits(the_item) - 1)
        attention_finish_(lists_.denominator[state], pages_.v_dim, out(the_item, r));
    }
  }

  const View3<const float> q_thd_;
  const AttentionBatch& batch_;
  const KvPages& pages_;
  const KvPageLayout key_layout_ = key_layout(pages_), value_layout_ = value_layout(pages_);
  const float scale_;
  const View3<float> out_thd_;
  Lists& lists_;
  int64_t group_, heads_per_item_, items_per_kv_head_, rows_per_item_;
  void (*const attention_split_)(const AttentionSplit&) = GH_PICK(attention_split);
  void (*const attention_merge_)(const float*, float, float, int64_t, float*, float*,
                                 float*) = GH_PICK(attention_merge);
  void (*const attention_finish_)(float, int64_t, float*) = GH_PICK(attention_finish);
};

}  // namespace

void paged_attention_cpu(Team& team, View3<const float> q_thd, const AttentionBatch& batch,
                         const KvPages& pages, float scale, View3<float> out_thd) {
  const auto num_tokens = static_cast<size_t>(q_thd.dim0);
  GH_CHECK(batch.position_t.size() == num_tokens && batch.sequence_t.size() == num_tokens);
  GH_CHECK(q_thd.dim1 % pages.num_kv_heads == 0 && q_thd.dim2 == pages.k_dim && scale > 0);
  GH_CHECK(out_thd.dim0 == q_thd.dim0 && out_thd.dim1 == q_thd.dim1 && out_thd.dim2 == pages.v_dim);
  thread_local Lists lists;
  Attention(q_thd, batch, pages, scale, out_thd, lists).run(team);
}

}  // namespace guildhall
