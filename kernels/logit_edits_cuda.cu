// logit_edits_cuda.cu: edits of logits, a block per row.
#include <cmath>

#include "base/check.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/logit_edits.h"

namespace guildhall {
namespace {

constexpr int kThreads = 512;

__global__ void edit_logits_kernel(const EditedRow* row_i, const LogitEdit* edit_e,
                                   View2<const uint32_t> allowed_mw, View2<float> logits_rv) {
  const EditedRow edited = row_i[blockIdx.x];
  float* logits_v = logits_rv.row(edited.row);
  for (int64_t i = threadIdx.x; i < edited.num_edits; i += kThreads) {
    const LogitEdit edit = edit_e[edited.first_edit + i];
    logits_v[edit.id] = edited_logit(logits_v[edit.id], edit);
  }
  if (edited.mask < 0) return;
  __syncthreads();  // an edit of a token that is not allowed is overwritten
  const uint32_t* allowed_w = allowed_mw.row(edited.mask);
  for (int64_t v = threadIdx.x; v < logits_rv.cols; v += kThreads)
    if ((allowed_w[v / kMaskBits] >> (v % kMaskBits) & 1) == 0) logits_v[v] = -INFINITY;
}

}  // namespace

void edit_logits_cuda(CudaStream stream, std::span<const EditedRow> row_i, std::span<const LogitEdit> edit_e,
                      View2<const uint32_t> allowed_mw, View2<float> logits_rv) {
  if (row_i.empty()) return;
  GH_CHECK(allowed_mw.rows == 0 || allowed_mw.cols == mask_words(logits_rv.cols));
  launch(edit_logits_kernel, static_cast<unsigned>(row_i.size()), kThreads, 0, stream, row_i.data(),
         edit_e.data(), allowed_mw, logits_rv);
}

}  // namespace guildhall
