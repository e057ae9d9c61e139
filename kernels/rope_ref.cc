// rope_ref.cc: rotates one pair at a time.
#include "kernels/rope.h"

namespace guildhall {

void rope_ref(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions_t,
              View3<float> x_thd) {
  const int64_t half = table.dim / 2;
  for (int64_t t = 0; t < x_thd.dim0; ++t) {
    for (int64_t head = 0; head < x_thd.dim1; ++head) {
      for (int64_t i = 0; i < half; ++i) {
        float* x = x_thd.at(t, head);
        float& a = x[pairing == RopePairing::half ? i : 2 * i];
        float& b = x[pairing == RopePairing::half ? i + half : 2 * i + 1];
        const float cos = table.cos_pd[positions_t[t] * half + i];
        const float sin = table.sin_pd[positions_t[t] * half + i];
        const float rotated_a = a * cos - b * sin;
        const float rotated_b = b * cos + a * sin;
        a = rotated_a;
        b = rotated_b;
      }
    }
  }
}

}  // namespace guildhall
