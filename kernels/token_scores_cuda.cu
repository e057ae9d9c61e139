// token_scores_cuda.cu: scores of tokens, a block per row. The best tokens are taken one by one: each thread
// holds the best of its share, and when that is taken, its warp looks through the share for the next.
#include "base/check.h"
#include "kernels/cuda/logits.cuh"
#include "kernels/token_scores.h"

namespace guildhall {
namespace {

// The best of a thread's share behind `last`. For a whole warp.
__device__ Choice best_behind(const float* logits_v, int64_t size, int64_t thread, Choice last) {
  Choice best = kNoChoice;
  const auto lane = static_cast<int64_t>(threadIdx.x % kWarp);
  for (int64_t v = thread + lane * kLogitThreads; v < size; v += kWarp * kLogitThreads) {
    const Choice choice = logit_choice(logits_v[v], v);
    if (choice < last) best = max(best, choice);
  }
  return warp_reduce(best, [](Choice a, Choice b) { return max(a, b); });
}

__global__ void token_scores_kernel(View2<const float> logits_rv, const ScoredRow* row_i,
                                    TokenScores* scores_i) {
  const ScoredRow wanted = row_i[blockIdx.x];
  TokenScores& scores = scores_i[blockIdx.x];
  const float* logits_v = logits_rv.row(wanted.row);
  const int64_t size = logits_rv.cols;
  const float logit = logits_v[wanted.token];
  const Choice chosen = logit_choice(logit, 0);  // the first among its equals
  Choice mine = best_of_share(logits_v, size);
  Choice best = block_best(mine);
  const float top = value_of(best);

  double sum = 0;
  int larger = 0;
  for_logits(logits_v, size, [&](float other, int64_t v) {
    if (!std::isinf(top)) sum += exp(static_cast<double>(other) - top);
    larger += logit_choice(other, v) > chosen;
  });
  sum = block_reduce(sum, 0.0, [](double a, double b) { return a + b; });
  larger = block_reduce(larger, 0, [](int a, int b) { return a + b; });
  const float norm = std::isinf(top) ? top : static_cast<float>(top + log(sum));
  if (threadIdx.x == 0) scores.logprob = logit - norm, scores.rank = larger + 1;

  for (int k = 0; k < wanted.num_top && best != kNoChoice; ++k) {
    const int64_t v = index_of(best);
    if (threadIdx.x == 0)
      scores.top_id[k] = static_cast<int32_t>(v), scores.top_logprob[k] = logits_v[v] - norm;
    const int64_t taken_from = v % kLogitThreads;
    if (taken_from / kWarp == threadIdx.x / kWarp) {
      const Choice next = best_behind(logits_v, size, taken_from, best);
      if (taken_from == threadIdx.x) mine = next;
    }
    best = block_best(mine);
  }
}

}  // namespace

void token_scores_cuda(CudaStream stream, View2<const float> logits_rv, std::span<const ScoredRow> row_i,
                       std::span<TokenScores> scores_i) {
  GH_CHECK(row_i.size() == scores_i.size() && logits_rv.cols <= INT32_MAX);
  if (row_i.empty()) return;
  launch(token_scores_kernel, static_cast<unsigned>(row_i.size()), kLogitThreads, 0, stream, logits_rv,
         row_i.data(), scores_i.data());
}

}  // namespace guildhall
