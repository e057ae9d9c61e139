// exchange_rows.h: a micro-batch's rows on their way between the model and the workers. On the CPU they are
// where both want them. To and from a device they cross in the codec of the wire, encoded, decoded and summed
// there, where all workers have one; fp32, and what differs between workers, is the host's to convert.
// Answers cross in tiles of bounded size. Where the exchange has tails, many rows do not cross at all: they
// go from the device's memory to the workers and back into it. Owner: the engine thread.
#pragma once

#include <array>
#include <deque>
#include <memory>

#include "base/status.h"
#include "kernels/device_buffers.h"
#include "kernels/ops.h"
#include "router/dispatcher.h"

namespace guildhall {

class ExchangeRows final : private TailWriter {
 public:
  // Answers on their way at a time. A decode step of 256 tokens with 8 answers of 14 KiB each goes in one
  // tile; of a prompt, whose answers are many times its rows, the device holds this much and no more.
  static constexpr int64_t kTileBytes = 32 << 20;

  // Borrowed: ops, dispatcher. Memory for max_tokens is taken here.
  ExchangeRows(Ops& ops, Dispatcher& dispatcher, int64_t hidden, int64_t top_k, int64_t max_tokens,
               int64_t most_tile_bytes = kTileBytes);

  // Rows and choices of a micro-batch set out for the host; h_th may be written again after dispatch(). The
  // choices stay as they are until combine(). Returns whether the device may be told of other work at once:
  // dispatch() does not need it.
  bool depart(int micro_batch, View2<float> h_th, View2<int32_t> expert_tk, View2<float> weight_tk);
  // Waits for them, and sends them to the workers.
  Result<void> dispatch(const DispatchKey& key);
  // The choices that were dispatched, at the host until the micro-batch is combined.
  View2<const int32_t> choices(int micro_batch) const {
    return side_m_[static_cast<size_t>(micro_batch)].expert_tk;
  }
  // x_th += the experts' answers, once they are there.
  Result<void> combine(int micro_batch, View2<float> x_th);

 private:
  // One micro-batch's, until it is combined.
  struct Side {
    explicit Side(Ops& ops) : rows(ops), weight(ops), sum(ops), expert(ops) {}
    HostMatrix<std::byte> rows;          // [T, row_bytes] as the device encoded them
    HostMatrix<float> weight, sum;       // [T,K] [T,H]
    HostMatrix<int32_t> expert;          // [T,K]
    EncodedRows departed;                // at the host
    View2<const int32_t> expert_tk;      // at the host
    View2<const float> weight_tk;        // at the host
    View2<const float> weight_there_tk;  // on the device
  };

  // TailWriter: of the rows that depart() left on the device.
  void write(std::span<const int32_t> row_i, std::byte* tail) override;
  void finish() override;

  bool stay_on_device(int64_t num_rows) const;

  // A tile of answers: where each is on the device [n,K], null: none, and behind that the rows that came by
  // the host.
  int64_t tile_rows_offset(int64_t num_tokens) const;
  int64_t tile_bytes(int64_t num_tokens) const;
  void add_tile(View2<const EncodedRow> row_tk, View2<const float> weight_tk, View2<float> x_th);
  Result<void> add_sums(Side& side, int micro_batch, View2<float> x_th);

  Ops& ops_;
  Dispatcher& dispatcher_;
  const int64_t hidden_, top_k_;
  const RowCodecs codecs_;
  const int64_t answer_bytes_;  // of one row
  int64_t tile_tokens_ = 0;
  std::array<Side, 2> side_m_{Side{ops_}, Side{ops_}};
  DeviceMatrix<std::byte> encoded_{ops_}, tile_{ops_};
  DeviceMatrix<float> sums_{ops_};  // [T,H] that the host added up
  std::array<HostMatrix<std::byte>, 2> host_tile_i_{HostMatrix<std::byte>{ops_}, HostMatrix<std::byte>{ops_}};
  size_t next_tile_ = 0;  // of host_tile_i_: one is filled while the other is on its way
  // Tails.
  const bool has_tails_;
  View2<const std::byte> on_device_;   // what departed and stayed there
  std::deque<DeviceArrays<1>> row_w_;  // indices of a worker's rows; one each, as they are read later
  size_t num_written_ = 0;             // of row_w_, since depart()
  KernelFence fence_{ops_};
};

}  // namespace guildhall
