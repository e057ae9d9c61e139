#include "tests/unit/http/fake_engine.h"

#include <algorithm>
#include <chrono>

namespace guildhall {

constexpr std::chrono::seconds kPatience{20};

FakeEngine::FakeEngine() : reply_{'a', 'b', 'c'}, thread_([this] { loop(); }) {}

FakeEngine::~FakeEngine() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void FakeEngine::set_reply(std::vector<int32_t> tokens) {
  std::lock_guard lock(mutex_);
  reply_ = std::move(tokens);
}

void FakeEngine::hold() {
  std::lock_guard lock(mutex_);
  held_ = true;
}

void FakeEngine::refuse_after(size_t accepted, Status status) {
  std::lock_guard lock(mutex_);
  accepted_before_refusal_ = accepted;
  refusal_ = std::move(status);
}

Result<RequestId> FakeEngine::submit(EngineRequest request, EventSink sink) {
  std::lock_guard lock(mutex_);
  if (refusal_ && accepted_before_refusal_ == 0) return *refusal_;
  if (refusal_) --accepted_before_refusal_;
  requests_.push_back(request);
  RequestId id = requests_.size();
  live_[id] = {std::move(request), std::move(sink)};
  if (!held_) tasks_.push_back([this, id] { step(id); });
  changed_.notify_all();
  return id;
}

void FakeEngine::cancel(RequestId id) {
  post([this, id] {
    EventSink sink;
    {
      std::lock_guard lock(mutex_);
      cancelled_.insert(id);
      auto found = live_.find(id);
      if (found != live_.end()) {
        sink = std::move(found->second.sink);
        live_.erase(found);
      }
    }
    changed_.notify_all();
    if (sink) sink(tokens_event({}, FinishReason::cancelled));
  });
}

void FakeEngine::emit(RequestId id, EngineEvent event) {
  auto shared = std::make_shared<EngineEvent>(std::move(event));
  post([this, id, shared] {
    EventSink sink;
    {
      std::lock_guard lock(mutex_);
      auto found = live_.find(id);
      if (found == live_.end()) return;
      sink = found->second.sink;
      if (shared->finish) live_.erase(found);
    }
    sink(std::move(*shared));
  });
}

void FakeEngine::step(RequestId id) {
  EngineEvent event;
  EventSink sink;
  {
    std::lock_guard lock(mutex_);
    auto found = live_.find(id);
    if (found == live_.end()) return;
    Live& live = found->second;
    const EngineRequest& request = live.request;
    if (live.num_emitted == 0 && request.num_prompt_logprobs)
      for (size_t i = 1; i < request.prompt_ids.size(); ++i)
        event.prompt_logprobs.push_back(fake_logprobs(request.prompt_ids[i], *request.num_prompt_logprobs));
    if (live.num_emitted == 0 && request.prompt_routed_experts)
      event.prompt_routed_experts = fake_experts(request.prompt_ids);
    if (live.num_emitted < request.max_tokens) {
      int32_t token = reply_[static_cast<size_t>(live.num_emitted++) % reply_.size()];
      event.tokens = {token};
      if (request.routed_experts) event.routed_experts = fake_experts(event.tokens);
      if (request.num_logprobs) event.logprobs = {fake_logprobs(token, *request.num_logprobs)};
      if (std::count(request.stop_token_ids.begin(), request.stop_token_ids.end(), token))
        event.finish = FinishReason::stop;
    }
    if (!event.finish && live.num_emitted >= request.max_tokens) event.finish = FinishReason::length;
    sink = live.sink;
    if (event.finish)
      live_.erase(found);
    else
      tasks_.push_back([this, id] { step(id); });
  }
  sink(std::move(event));
}

void FakeEngine::post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  changed_.notify_all();
}

void FakeEngine::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
    if (ending_) return;
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

bool FakeEngine::wait_submitted(size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return requests_.size() >= count; });
}

bool FakeEngine::wait_cancelled(size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return cancelled_.size() >= count; });
}

std::vector<EngineRequest> FakeEngine::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

std::set<RequestId> FakeEngine::cancelled() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

EngineEvent tokens_event(std::vector<int32_t> tokens, std::optional<FinishReason> finish) {
  EngineEvent event;
  event.tokens = std::move(tokens);
  event.finish = finish;
  return event;
}

std::vector<uint16_t> fake_experts(const std::vector<int32_t>& tokens) {
  std::vector<uint16_t> ids;
  for (const int32_t token : tokens)
    for (const int more : {0, 1, 2, 3}) ids.push_back(static_cast<uint16_t>(token + more));
  return ids;
}

// The chosen token is the second best: 'Z' leads.
PositionLogprobs fake_logprobs(int32_t token, int num_top) {
  PositionLogprobs logprobs;
  logprobs.chosen = {token, -0.5f};
  for (int i = 0; i < num_top; ++i) logprobs.top.push_back({'Z' - i, -0.25f - static_cast<float>(i)});
  return logprobs;
}

}  // namespace guildhall
