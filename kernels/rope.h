// rope.h: rotary position embedding (Su et al. 2021), YaRN (Peng et al. 2023) and llama3 frequency scaling.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/stream.h"
#include "kernels/team.h"
#include "kernels/view.h"

namespace guildhall {

enum class RopePairing {
  half,         // pairs (i, i + d/2): Llama, Qwen, GLM
  interleaved,  // pairs (2i, 2i+1): DeepSeek's MLA rope dimensions
};

enum class RopeScaling { none, linear, yarn, llama3 };

struct RopeParams {
  int64_t dim = 0;  // rotated dimensions d (even)
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  int64_t original_max_position = 0;                 // yarn, llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn: floor/ceil of the ramp's ends
  double attention_factor = 1;                       // yarn: multiplies cos and sin (already resolved)
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
};

// The d/2 inverse frequencies after scaling.
std::vector<double> rope_inverse_frequencies(const RopeParams& params);

// cos and sin for positions [0, num_positions): each [P, d/2], fp32, attention_factor applied.
struct RopeTable {
  int64_t dim = 0, num_positions = 0;
  std::vector<float> cos_pd, sin_pd;
};
RopeTable make_rope_table(const RopeParams& params, int64_t num_positions);

// A table that lies elsewhere, on a device: RopeTable's cos_pd and sin_pd as they are. Borrowed.
struct RopeTableView {
  int64_t dim = 0;
  std::span<const float> cos_pd, sin_pd;
};

// Rotates x [T, heads, d] in place by positions_t (each < num_positions). The pairing says which elements
// pair; the result stays in the same layout.
void rope_ref(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
              View3<float> x_thd);
void rope_cpu(Team& team, const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
              View3<float> x_thd);
// Products and sums may be fused: within 1e-6 of ref. Positions are on the device, where nothing checks them.
void rope_cuda(CudaStream stream, const RopeTableView& table, RopePairing pairing,
               std::span<const int32_t> positions_t, View3<float> x_thd);

}  // namespace guildhall
