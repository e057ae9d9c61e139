// expert_runner.h: one dispatch frame through the experts: rows in, one row per (row, expert) pair out.
// Groups rows by expert, runs the grouped FFN, and puts rows back in pair order. Owner: the serve thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/matrix_buffer.h"
#include "kernels/team.h"
#include "kernels/view.h"
#include "model/spec.h"
#include "model/weights.h"
#include "proto/codec.h"

namespace guildhall {

class ExpertRunner {
 public:
  // `spec` and `team` are borrowed.
  ExpertRunner(const ModelSpec& spec, Team& team);

  // The experts held from now on.
  void set_store(std::shared_ptr<const ExpertStore> store);

  // Whether this dispatch can be run here: its layer, hidden size and every expert.
  Result<void> check(const DispatchView& dispatch) const;

  // Runs a checked dispatch and writes its pairs' rows, in the frame's codec, to `rows_out`.
  void run(const DispatchView& dispatch, std::span<std::byte> rows_out);

 private:
  void decode_rows(const DispatchView& dispatch, View2<float> x_th) const;
  void encode_rows(const DispatchView& dispatch, View2<const float> grouped_ph,
                   std::span<std::byte> rows_out);

  const ModelSpec& spec_;
  Team& team_;
  std::shared_ptr<const ExpertStore> store_;
  std::vector<std::vector<ExpertWeightView>> experts_le_;  // [L][E]; empty views: not held
  std::vector<int32_t> expert_p_, row_p_, position_p_, offset_e_;
  MatrixBuffer x_, grouped_, hidden_, result_, ordered_;  // grow to their largest shape once
};

}  // namespace guildhall
