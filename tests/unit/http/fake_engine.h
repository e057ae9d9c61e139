// fake_engine.h: an engine whose model is a script. It answers on its own thread, one event per token, like
// the real one; or it holds still until the test emits events itself.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "router/engine_client.h"

namespace guildhall {

class FakeEngine : public EngineClient {
 public:
  FakeEngine();
  ~FakeEngine() override;

  EngineCounters reported;  // set before the server is attached

  // What every request is answered with: these tokens, over and over, until max_tokens or a stop token.
  void set_reply(std::vector<int32_t> tokens);
  // Requests are only recorded; the test emits.
  void hold();
  // submit() fails with this after `accepted` more requests.
  void refuse_after(size_t accepted, Status status);

  Result<RequestId> submit(EngineRequest request, EventSink sink) override;
  void cancel(RequestId id) override;
  EngineCounters counters() const override { return reported; }
  RoutingShape routing() const override { return {.num_layers = 2, .top_k = 2}; }

  // Runs the request's sink on the engine thread.
  void emit(RequestId id, EngineEvent event);

  // These wait (up to 20 s) and say whether it came to pass.
  bool wait_submitted(size_t count);
  bool wait_cancelled(size_t count);
  std::vector<EngineRequest> requests() const;
  std::set<RequestId> cancelled() const;

 private:
  struct Live {
    EngineRequest request;
    EventSink sink;
    int32_t num_emitted = 0;
  };
  void loop();
  void step(RequestId id);
  void post(std::function<void()> task);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> reply_;
  bool held_ = false, ending_ = false;
  std::optional<Status> refusal_;
  size_t accepted_before_refusal_ = 0;
  std::vector<EngineRequest> requests_;  // id i+1 is requests_[i]
  std::map<RequestId, Live> live_;
  std::set<RequestId> cancelled_;
  std::deque<std::function<void()>> tasks_;
  std::thread thread_;
};

// An event without scores.
EngineEvent tokens_event(std::vector<int32_t> tokens, std::optional<FinishReason> finish = std::nullopt);
PositionLogprobs fake_logprobs(int32_t token, int num_top);
// Experts of tokens: each has the same, its own id and some more.
std::vector<uint16_t> fake_experts(const std::vector<int32_t>& tokens);

}  // namespace guildhall
