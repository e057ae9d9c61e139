// local_engine.h: a whole model in this process: engine thread, loopback exchange, local expert workers. For tests.
#pragma once

#include <filesystem>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "experts/worker.h"
#include "router/engine_loop.h"
#include "transport/loopback.h"

namespace guildhall {

struct LocalEngineOptions {
  int num_workers = 2;
  int num_threads = 2;
  int64_t max_sequences = 32;
  int64_t max_batched_tokens = 64;
  int64_t block_size = 16;
  int64_t kv_tokens = 1 << 14;
  Codec codec = Codec::f32;
  DType kv_dtype = DType::f32;
  LoadMode load = LoadMode::checkpoint;
};

// What one request came to.
struct Completion {
  std::vector<PositionLogprobs> prompt_logprobs;
  std::vector<int32_t> tokens;
  std::vector<PositionLogprobs> logprobs;
  FinishReason finish = FinishReason::error;
  std::optional<Status> error;
};

class LocalEngine {
 public:
  // Throws what loading returns.
  LocalEngine(const std::filesystem::path& checkpoint, const LocalEngineOptions& options);
  ~LocalEngine();

  Engine& engine() { return *engine_; }
  const ModelSpec& spec() const { return spec_; }
  int64_t dense_bytes() const { return weights_->bytes(); }

  std::future<Completion> submit(EngineRequest request);
  Completion run(EngineRequest request) { return submit(std::move(request)).get(); }

 private:
  struct Member {
    std::unique_ptr<Exchange> exchange;
    std::unique_ptr<Worker> worker;
  };
  ModelSpec spec_;
  LoadProgress progress_;
  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> exchange_;
  std::vector<Member> members_;
  std::unique_ptr<DenseWeights> weights_;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
};

}  // namespace guildhall
