// expert_runner.h: dispatch frames through the experts: rows in, answers out. Groups rows by expert, runs the
// grouped FFN, and answers with a row per (row, expert) pair, or, for a reduced combine, with one row per
// dispatched row: the sum of weight * row over its pairs in gate order, in fp32. Several frames of one layer
// run as one; a row's bits do not depend on the others. Frames are the host's; what is computed in between is
// the device's: rows go to a GPU and come back in the codecs of their frames, unless they are in its memory
// already, or are wanted there (tails). Owner: the serve thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "experts/expert_table.h"
#include "kernels/device_buffers.h"
#include "kernels/ops.h"
#include "kernels/view.h"
#include "model/spec.h"
#include "proto/codec.h"

namespace guildhall {

// A checked dispatch and where its answer's rows go: answer_shape(dispatch->header)'s, packed.
struct ExpertJob {
  const DispatchView* dispatch;
  std::span<std::byte> rows_out;
  bool is_tail = false;  // rows_out is in the memory of the runner's device
};

// What was computed since the start.
struct ExpertRunSums {
  uint64_t activations = 0;   // experts run, summed over runs: each reads its weights once
  uint64_t weight_bytes = 0;  // that they read
};

class ExpertRunner {
 public:
  // `spec` and `ops` are borrowed.
  ExpertRunner(const ModelSpec& spec, Ops& ops);

  // In the memory of `ops`. May change between runs: after one, nothing reads them any more.
  ExpertTable& experts() { return experts_; }

  // Whether this dispatch can be run here: its layer, hidden size and every expert.
  Result<void> check(const DispatchView& dispatch) const;

  // Runs jobs of one layer together.
  void run(std::span<const ExpertJob> jobs);
  const ExpertRunSums& sums() const { return run_sums_; }

 private:
  // Rows as they travel, on a GPU's way in or out.
  struct Travelling {
    explicit Travelling(Ops& ops) : there(ops), host(ops) {}
    DeviceMatrix<std::byte> there;
    HostMatrix<std::byte> host;
    View2<const std::byte> rows;  // at the host
  };

  int64_t gather_pairs(std::span<const ExpertJob> jobs);
  void count_activations(int64_t layer);
  View2<float> rows(std::span<const ExpertJob> jobs, int64_t num_rows);
  void decode_rows(const DispatchView& dispatch, View2<float> x_rh);
  void upload_rows(std::span<const ExpertJob> jobs, View2<float> x_rh);
  void encode_results(std::span<const ExpertJob> jobs, View2<const float> result_ph);
  void answer_pairs(const ExpertJob& job, View2<const float> result_ph, std::span<const int32_t> position_p);
  void answer_rows(const ExpertJob& job, View2<const float> result_ph, std::span<const int32_t> position_p);
  View2<const std::byte> encode(Codec codec, View2<const float> x_th, Travelling& as);
  void write_tail(const ExpertJob& job, View2<const float> result_ph, size_t first_pair);
  View2<float> sum_rows(const ExpertJob& job, View2<const float> result_ph,
                        std::span<const int32_t> position_p);

  const ModelSpec& spec_;
  Ops& ops_;
  ExpertTable experts_;
  ExpertRunSums run_sums_;
  std::vector<int32_t> expert_p_, row_p_, position_p_, offset_e_;  // over all jobs' pairs and rows
  DeviceArrays<2> pairs_;                                          // row_p_ and position_p_
  DeviceMatrix<float> x_{ops_}, grouped_{ops_}, hidden_{ops_}, result_{ops_}, gathered_{ops_};
  Travelling dispatched_{ops_}, sums_{ops_};  // all jobs' rows; a reduced answer's
  // Results in each codec that exact answers have.
  std::array<Travelling, kNumCodecs> results_c_{Travelling{ops_}, Travelling{ops_}, Travelling{ops_}};
  // Of a reduced answer: each row's number of pairs, where their results stand, and their weights.
  std::vector<uint32_t> count_r_;
  std::vector<int32_t> index_rk_;
  DeviceArrays<1> index_;
  HostMatrix<float> host_weight_{ops_};
  DeviceMatrix<float> weight_{ops_}, sum_{ops_};
  KernelFence fence_{ops_};
};

}  // namespace guildhall
