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
      answer_bytes_(bytes_of_row(codecs_.combine, hidden)),
      has_tails_(!ops.memory().is_host() && dispatcher.has_tails()) {
  if (ops.memory().is_host() || top_k == 0) return;
  if (codecs_.dispatch != Codec::f32) encoded_.view(max_tokens, bytes_of_row(codecs_.dispatch, hidden));
  if (codecs_.combine == Codec::f32) sums_.view(max_tokens, hidden);
  if (codecs_.combine == Codec::f32 && !has_tails_) return;
  tile_tokens_ = std::clamp<int64_t>(most_tile_bytes / (top_k * answer_bytes_), 1, max_tokens);
  tile_.view(1, tile_bytes(tile_tokens_));
  for (HostMatrix<std::byte>& tile : host_tile_i_) tile.view(1, tile_bytes(tile_tokens_));
}

bool ExchangeRows::depart(int micro_batch, View2<float> h_th, View2<int32_t> expert_tk,
                          View2<float> weight_tk) {
  Side& side = side_m_[static_cast<size_t>(micro_batch)];
  const Codec codec = ops_.memory().is_host() ? Codec::f32 : codecs_.dispatch;
  const int64_t bytes = bytes_of_row(codec, hidden_);
  GH_CHECK(h_th.stride == h_th.cols);
  View2<std::byte> rows{reinterpret_cast<std::byte*>(h_th.data), h_th.rows, bytes};
  if (codec != Codec::f32) {
    rows = encoded_.view(h_th.rows, bytes);
    ops_.encode_rows(codec, h_th, rows.data);
  }
  side.departed = {nullptr, h_th.rows, codec, static_cast<size_t>(bytes)};
  if (stay_on_device(h_th.rows)) {
    on_device_ = rows;
    side.departed.tails = this;
  } else {
    side.departed.data = side.rows.download(rows).data;
  }
  side.expert_tk = side.expert.download(expert_tk);
  side.weight_tk = side.weight.download(weight_tk);
  side.weight_there_tk = weight_tk;
  return !ops_.memory().is_host() && side.departed.tails == nullptr;
}

// Whether these rows go as tails. A row is moved by elements of four bytes.
bool ExchangeRows::stay_on_device(int64_t num_rows) const {
  const int64_t bytes = bytes_of_row(codecs_.dispatch, hidden_);
  return has_tails_ && bytes % 4 == 0 && dispatcher_.sends_tails(static_cast<size_t>(num_rows * bytes));
}

void ExchangeRows::write(std::span<const int32_t> row_i, std::byte* tail) {
  const auto n = static_cast<int64_t>(row_i.size()), width = on_device_.cols / 4;
  if (num_written_ == row_w_.size()) row_w_.emplace_back(ops_, std::array<int64_t, 1>{n});
  DeviceArrays<1>& rows = row_w_[num_written_++];
  rows.upload({row_i});
  ops_.gather_rows({reinterpret_cast<const float*>(on_device_.data), on_device_.rows, width}, rows[0],
                   {reinterpret_cast<float*>(tail), n, width});
}

void ExchangeRows::finish() {
  num_written_ = 0;
  fence_.wait(reinterpret_cast<const float*>(on_device_.data), "wait tails");
}

Result<void> ExchangeRows::dispatch(const DispatchKey& key) {
  Side& side = side_m_[static_cast<size_t>(key.micro_batch)];
  side.weight.wait("wait rows");  // transfers end in order: for all three
  return dispatcher_.dispatch(key, side.departed, side.expert_tk, side.weight_tk);
}

Result<void> ExchangeRows::combine(int micro_batch, View2<float> x_th) {
  if (ops_.memory().is_host()) return dispatcher_.combine(micro_batch, x_th);
  Side& side = side_m_[static_cast<size_t>(micro_batch)];
  GH_ASSIGN(const Answers answers, dispatcher_.answers(micro_batch));
  if (codecs_.combine == Codec::f32 && !answers.on_device) return add_sums(side, micro_batch, x_th);
  for (int64_t begin = 0; begin < x_th.rows; begin += tile_tokens_) {
    const int64_t n = std::min(tile_tokens_, x_th.rows - begin);
    // Rows that the workers weighted already need no weights.
    const View2<const float> weight_tk =
        answers.weighted ? View2<const float>{} : side.weight_there_tk.sub_rows(begin, n);
    add_tile(answers.row_tk.sub_rows(begin, n), weight_tk, x_th.sub_rows(begin, n));
  }
  if (answers.on_device)
    fence_.wait(x_th.data, "wait sums");  // frames that are given back may be written anew
  dispatcher_.close(micro_batch);
  return {};
}

int64_t ExchangeRows::tile_rows_offset(int64_t num_tokens) const {
  return (num_tokens * top_k_ * static_cast<int64_t>(sizeof(std::byte*)) + 255) / 256 * 256;
}
int64_t ExchangeRows::tile_bytes(int64_t num_tokens) const {
  return tile_rows_offset(num_tokens) + num_tokens * top_k_ * answer_bytes_;
}

// Added on the device, those that came by the host once they are copied to where it reads.
void ExchangeRows::add_tile(View2<const EncodedRow> row_tk, View2<const float> weight_tk, View2<float> x_th) {
  HostMatrix<std::byte>& host = host_tile_i_[next_tile_++ % host_tile_i_.size()];
  const int64_t offset = tile_rows_offset(row_tk.rows), num = row_tk.rows * row_tk.cols;
  std::byte* const tile = host.view(1, tile_bytes(row_tk.rows)).data;
  const std::byte* const there = tile_.view(1, tile_bytes(row_tk.rows)).data;
  auto* const at_tk = reinterpret_cast<const std::byte**>(tile);
  int64_t num_rows = 0;
  for (int64_t i = 0; i < num; ++i) {
    const EncodedRow& answer = row_tk.data[i];
    const bool by_host = answer.row != nullptr && !answer.on_device;
    GH_CHECK(answer.row == nullptr || answer.codec == codecs_.combine);
    at_tk[i] = by_host ? there + offset + num_rows++ * answer_bytes_ : answer.row;
  }
  parallel_rows(ops_.team(), row_tk.rows, row_tk.cols * hidden_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * row_tk.cols; i < end * row_tk.cols; ++i)
      if (const EncodedRow& answer = row_tk.data[i]; answer.row != nullptr && !answer.on_device)
        std::memcpy(tile + (at_tk[i] - there), answer.row, static_cast<size_t>(answer_bytes_));
  });
  host.upload({tile, 1, offset + num_rows * answer_bytes_}, tile_);
  ops_.combine_encoded(codecs_.combine,
                       {reinterpret_cast<const std::byte* const*>(there), row_tk.rows, row_tk.cols},
                       answer_bytes_ % 16 == 0, weight_tk, x_th);
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
