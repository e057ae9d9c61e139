// weight_fetch.h: an expert's bytes from another worker, one chunk after the other. The mover's thread asks,
// waits and puts them together; the serve thread (weight_links.h) sends what it asks and brings what is
// answered, and never waits for it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/arena.h"
#include "model/spec.h"
#include "proto/weights_codec.h"

namespace guildhall {

// As adopt_expert() takes it.
struct FetchedExpert {
  DType dtype = DType::f32;
  Arena bytes;  // the host's
};

struct WeightFetchOptions {
  std::string peer;                     // the other worker, for errors
  std::chrono::nanoseconds deadline{};  // of each answer
  uint32_t chunk_bytes = kMaxWeightsChunk;
};

class WeightFetch {
 public:
  // Has the request sent, some time; any thread.
  using Ask = std::function<void(uint64_t step_id, const WeightsRequest& request)>;
  // May wait; its error ends the fetch.
  using Pace = std::function<Result<void>(int64_t bytes)>;

  // `spec` is borrowed.
  WeightFetch(const ModelSpec& spec, WeightFetchOptions options, Ask ask);

  // ---- the mover's thread
  // The bytes come into `host`, a host's memory. not_found: the other does not hold this one. After any other
  // error nothing more is to be had from it.
  Result<FetchedExpert> fetch(int64_t layer, int64_t expert, DeviceMemory& host, const Pace& pace);

  // ---- any thread: fetch() returns this, now and from then on.
  void end(const Status& why);

  // ---- the serve thread. What answers no open request is dropped.
  void on_chunk(uint64_t step_id, const WeightsChunk& chunk);
  void on_failure(uint64_t step_id, const Status& why);

 private:
  Result<WeightsChunk> ask_and_wait(const WeightsRequest& request);
  Status wrong(const std::string& what) const;

  const ModelSpec& spec_;
  const WeightFetchOptions options_;
  const Ask ask_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable answered_;
  uint64_t last_id_ = 0, open_id_ = 0;  // 0: none is open
  std::optional<Result<WeightsChunk>> answer_;
  std::vector<std::byte> chunk_;  // the answer's bytes
  std::optional<Status> ended_;
};

}  // namespace guildhall
