#include "router/exchange_rows.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/parallel_rows.h"

namespace guildhall {
namespace {

int64_t bytes_of_row(Codec codec, int64_t hidden) {
  return static_cast<int64_t>(row_bytes(codec, static_cast<uint64_t>(hidden)));
}

}  // namespace

ExchangeRows::ExchangeRows(Ops& ops, Dispatcher& dispatcher, int64_t hidden, int64_t top_k,
                           int64_t max_tokens, int64_t most_tile_bytes)
    : ops_(ops),
      dispatcher_(dispatcher),
      hidden_(hidden),
      top_k_(top_k),
      codecs_(dispatcher.common_codecs()),
      answer_bytes_(bytes_of_row(codecs_.combine, hidden)) {
  if (ops.memory().is_host() || top_k == 0) return;
  if (codecs_.dispatch != Codec::f32) encoded_.view(max_tokens, bytes_of_row(codecs_.dispatch, hidden));
  if (codecs_.combine == Codec::f32) {
    sums_.view(max_tokens, hidden);
    return;
  }
  tile_tokens_ = std::clamp<int64_t>(most_tile_bytes / (top_k * answer_bytes_), 1, max_tokens);
  tile_.view(1, tile_bytes(tile_tokens_));
  for (HostMatrix<std::byte>& tile : host_tile_i_) tile.view(1, tile_bytes(tile_tokens_));
}

void ExchangeRows::depart(int micro_batch, View2<float> h_th, View2<int32_t> expert_tk,
                          View2<float> weight_tk) {
  Side& side = side_m_[static_cast<size_t>(micro_batch)];
  if (ops_.memory().is_host() || codecs_.dispatch == Codec::f32) {
    const int64_t bytes = bytes_of_row(Codec::f32, hidden_);
    GH_CHECK(h_th.stride == h_th.cols);
    const View2<std::byte> rows =
        side.rows.download({reinterpret_cast<std::byte*>(h_th.data), h_th.rows, bytes});
    side.departed = {rows.data, h_th.rows, Codec::f32, static_cast<size_t>(bytes)};
  } else {
    const View2<std::byte> encoded = encoded_.view(h_th.rows, bytes_of_row(codecs_.dispatch, hidden_));
    ops_.encode_rows(codecs_.dispatch, h_th, encoded.data);
    const View2<std::byte> rows = side.rows.download(encoded);
    side.departed = {rows.data, rows.rows, codecs_.dispatch, static_cast<size_t>(rows.cols)};
  }
  side.expert_tk = side.expert.download(expert_tk);
  side.weight_tk = side.weight.download(weight_tk);
  side.weight_there_tk = weight_tk;
}

Result<void> ExchangeRows::dispatch(const DispatchKey& key) {
  Side& side = side_m_[static_cast<size_t>(key.micro_batch)];
  side.weight.wait("wait rows");  // transfers end in order: for all three
  return dispatcher_.dispatch(key, side.departed, side.expert_tk, side.weight_tk);
}

Result<void> ExchangeRows::combine(int micro_batch, View2<float> x_th) {
  if (ops_.memory().is_host()) return dispatcher_.combine(micro_batch, x_th);
  Side& side = side_m_[static_cast<size_t>(micro_batch)];
  if (codecs_.combine == Codec::f32) return add_sums(side, micro_batch, x_th);
  GH_ASSIGN(const Answers answers, dispatcher_.answers(micro_batch));
  for (int64_t begin = 0; begin < x_th.rows; begin += tile_tokens_) {
    const int64_t n = std::min(tile_tokens_, x_th.rows - begin);
    // Rows that the workers weighted already need no weights.
    const View2<const float> weight_tk =
        answers.weighted ? View2<const float>{} : side.weight_there_tk.sub_rows(begin, n);
    add_tile(answers.row_tk.sub_rows(begin, n), weight_tk, x_th.sub_rows(begin, n));
  }
  dispatcher_.close(micro_batch);
  return {};
}

int64_t ExchangeRows::tile_rows_offset(int64_t num_tokens) const {
  return (num_tokens * top_k_ * static_cast<int64_t>(sizeof(int32_t)) + 255) / 256 * 256;
}
int64_t ExchangeRows::tile_bytes(int64_t num_tokens) const {
  return tile_rows_offset(num_tokens) + num_tokens * top_k_ * answer_bytes_;
}

// Copied from the workers' frames to where the device reads, and added there.
void ExchangeRows::add_tile(View2<const EncodedRow> row_tk, View2<const float> weight_tk, View2<float> x_th) {
  HostMatrix<std::byte>& host = host_tile_i_[next_tile_++ % host_tile_i_.size()];
  const int64_t offset = tile_rows_offset(row_tk.rows);
  std::byte* const tile = host.view(1, tile_bytes(row_tk.rows)).data;
  auto* const index_tk = reinterpret_cast<int32_t*>(tile);
  int32_t num_rows = 0;
  for (int64_t i = 0; i < row_tk.rows * row_tk.cols; ++i)
    index_tk[i] = row_tk.data[i].row == nullptr ? -1 : num_rows++;
  parallel_rows(ops_.team(), row_tk.rows, row_tk.cols * hidden_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * row_tk.cols; i < end * row_tk.cols; ++i)
      if (index_tk[i] >= 0)
        std::memcpy(tile + offset + index_tk[i] * answer_bytes_, row_tk.data[i].row,
                    static_cast<size_t>(answer_bytes_));
  });
  const std::byte* const there = host.upload({tile, 1, offset + num_rows * answer_bytes_}, tile_).data;
  ops_.combine_encoded(codecs_.combine, there + offset,
                       {reinterpret_cast<const int32_t*>(there), row_tk.rows, row_tk.cols}, weight_tk, x_th);
}

// The host adds the answers up, and the device adds the sums to its own.
Result<void> ExchangeRows::add_sums(Side& side, int micro_batch, View2<float> x_th) {
  const View2<float> y_th = side.sum.view(x_th.rows, hidden_);
  std::fill_n(y_th.data, y_th.rows * y_th.cols, 0.0f);
  GH_TRY(dispatcher_.combine(micro_batch, y_th));
  ops_.add(side.sum.upload(y_th, sums_), x_th);
  return {};
}

}  // namespace guildhall
