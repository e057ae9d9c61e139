// expert_runner.h: dispatch frames through the experts: rows in, answers out. Groups rows by expert, runs the
// grouped FFN, and answers with a row per (row, expert) pair, or, for a reduced combine, with one row per
// dispatched row: the sum of weight * row over its pairs in gate order, in fp32. Several frames of one layer
// run as one; a row's bits do not depend on the others. Frames are the host's; what is computed in between is
// the device's: rows go to a GPU and come back in the codecs of their frames, unless they are in its memory
// already, or are wanted there (tails). Where experts are offloaded, a run goes through those that are in
// memory while the others come (resident_experts.h). Owner: the serve thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"
#include "experts/expert_table.h"
#include "experts/resident_experts.h"
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

  // These experts and no others, of which as many are in memory as `cold` has room for.
  void offload(std::shared_ptr<ColdExperts> cold, const ExpertsOfLayer& experts_l);
  bool offloads() const { return resident_ != nullptr; }
  // Beside those held, when they are offloaded.
  void hold(const ExpertsOfLayer& experts_l) { resident_->hold(experts_l); }
  // What of them was in memory; of offloaded ones that is given back at once.
  std::vector<PlacedExpert> remove(const ExpertsOfLayer& experts_l);
  // The next run of `layer` may need these, the likeliest first. Nothing, unless experts are offloaded; so
  // advance(), to be called between runs.
  void expect(int64_t layer, std::span<const uint16_t> experts);
  void advance();

  // Whether this dispatch can be run here: its layer, hidden size and every expert.
  Result<void> check(const DispatchView& dispatch) const;

  // Runs jobs of one layer together.
  void run(std::span<const ExpertJob> jobs);
  // Of the last run's job: why it has no answer. Null: it has one; always so unless experts are offloaded.
  const Status* failure(size_t job_idx) const;
  const ExpertRunSums& sums() const { return run_sums_; }
  ResidentSums resident_sums() const { return resident_ ? resident_->sums() : ResidentSums{}; }

 private:
  // Rows as they travel, on a GPU's way in or out.
  struct Travelling {
    explicit Travelling(Ops& ops) : there(ops), host(ops) {}
    DeviceMatrix<std::byte> there;
    HostMatrix<std::byte> host;
    View2<const std::byte> rows;  // at the host
  };

  int64_t gather_pairs(std::span<const ExpertJob> jobs);
  bool holds(int64_t layer, int64_t expert) const;
  void run_resident(int64_t layer, View2<const float> grouped_ph, View2<float> hidden_pf,
                    View2<float> result_ph);
  void find_failures(std::span<const ExpertJob> jobs);
  void count_activations(int64_t layer, ExpertRange experts);
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
  std::unique_ptr<ResidentExperts> resident_;     // null: all that are held are in experts_
  std::vector<std::optional<Status>> failure_j_;  // [0]: no job failed
  ExpertRunSums run_sums_;
  std::vector<int32_t> expert_p_, row_p_, position_p_, offset_e_;  // over all jobs' pairs and rows
  std::vector<int32_t> offset_r_;                                  // of a range of experts
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
