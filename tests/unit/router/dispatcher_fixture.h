// dispatcher_fixture.h: a dispatcher whose workers are scripts: raw loopback ends that record what they get
// and answer, or not, as the test says. All on one thread: scripts run while the dispatcher waits.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/combine.h"
#include "kernels/dtype.h"
#include "proto/codec.h"
#include "router/dispatcher.h"
#include "transport/loopback.h"

namespace guildhall {

// For tests in which somebody is late: long enough that nobody else is on a machine that stalls.
inline constexpr std::chrono::milliseconds kShortDeadline{400};

// An expert of the scripts: scales the row by 1 + its number.
inline float scripted_expert(float x, uint16_t expert) { return x * static_cast<float>(1 + expert); }

inline float element(Codec codec, const std::byte* row, size_t i) {
  if (codec == Codec::f32) return reinterpret_cast<const float*>(row)[i];
  return to_float(reinterpret_cast<const bf16*>(row)[i]);
}
inline void set_element(Codec codec, std::byte* row, size_t i, float value) {
  if (codec == Codec::f32)
    reinterpret_cast<float*>(row)[i] = value;
  else
    reinterpret_cast<bf16*>(row)[i] = to_bf16(value);
}

class ScriptedWorker final : public ExchangeHandler {
 public:
  ScriptedWorker(LoopbackFabric& fabric, const std::string& name, const std::string& router_address)
      : exchange(fabric.make_end(name)), router_address_(router_address) {
    reconnect();
  }

  // As after a new hello: frames of the link before are refused from here on.
  void reconnect() {
    exchange->disconnect(router);
    router = exchange->connect("router", router_address_).value();
  }

  // What it does with each dispatch; by default it answers as it should.
  std::function<void(const DispatchView&)> serve = [this](const DispatchView& d) { answer(d); };

  static FrameFields fields_of(const FrameHeader& h) {
    return {.generation = h.generation,
            .step_id = h.step_id,
            .placement_version = h.placement_version,
            .layer = h.layer,
            .micro_batch = h.micro_batch};
  }
  void answer(const DispatchView& d) { answer(d, fields_of(d.header)); }
  void answer(const DispatchView& d, const FrameFields& fields, int extra_rows = 0) {
    send(combine_frame(d, fields, extra_rows));
  }
  void fail(const DispatchView& d, const Status& why) {
    std::vector<std::byte> bytes(kMaxFailureFrameBytes);
    bytes.resize(write_failure(fields_of(d.header), why, bytes));
    send(bytes);
  }

  std::vector<std::byte> combine_frame(const DispatchView& d, const FrameFields& fields,
                                       int extra_rows = 0) const {
    const auto codec = static_cast<Codec>(d.header.codec);
    const FrameShape shape{.num_rows = static_cast<uint32_t>(static_cast<int>(d.pairs.size()) + extra_rows),
                           .hidden = d.header.hidden,
                           .codec = codec};
    std::vector<std::byte> bytes(frame_layout(shape).total_bytes);
    const FrameSections out = begin_combine(fields, shape, bytes);
    for (size_t p = 0; p < std::min<size_t>(shape.num_rows, d.pairs.size()); ++p)
      for (size_t i = 0; i < d.header.hidden; ++i)
        set_element(codec, out.row(p), i,
                    scripted_expert(element(codec, d.row(d.pairs[p].row), i), d.pairs[p].expert));
    return bytes;
  }

  void send(std::span<const std::byte> bytes) {
    const auto region = exchange->acquire(router, bytes.size());
    if (region.has_error()) return;
    std::copy(bytes.begin(), bytes.end(), region->begin());
    const Exchange::Outgoing frame{router, bytes.size()};
    exchange->post({&frame, 1});
  }

  bool poll() { return exchange && exchange->poll(*this) > 0; }

  void on_frame(PeerId, std::span<const std::byte> bytes) override {
    frames.emplace_back(bytes.begin(), bytes.end());
    serve(decode_dispatch(bytes).value());
  }
  void on_peer_lost(PeerId, const Status&) override {}

  DispatchView received(size_t i) const { return decode_dispatch(frames.at(i)).value(); }

  std::unique_ptr<Exchange> exchange;
  PeerId router = 0;
  std::vector<std::vector<std::byte>> frames;

 private:
  std::string router_address_;
};

struct DispatcherSetup {
  int num_workers = 2;
  int64_t num_experts = 6, top_k = 2, hidden = 4, max_tokens = 8;
  Codec codec = Codec::f32;
  std::chrono::nanoseconds deadline = std::chrono::minutes(1);
};

class DispatcherTest : public ::testing::Test {
 protected:
  static constexpr int64_t kLayer = 1;  // layer 0 is dense

  void make(const DispatcherSetup& setup) {
    setup_ = setup;
    router_end_ = fabric_.make_end("router");
    make_dispatcher(*router_end_);
    for (int w = 0; w < setup.num_workers; ++w) {
      workers_.push_back(std::make_unique<ScriptedWorker>(fabric_, name(w), router_end_->local_address()));
      attach(w);
    }
  }

  void make_dispatcher(Exchange& exchange) {
    dispatcher_ =
        std::make_unique<Dispatcher>(DispatcherOptions{.codec = setup_.codec,
                                                       .hidden = setup_.hidden,
                                                       .top_k = setup_.top_k,
                                                       .max_tokens = setup_.max_tokens,
                                                       .deadline = setup_.deadline,
                                                       .pump_local_workers = [this] { return pump(); },
                                                       .while_waiting =
                                                           [this] {
                                                             if (while_waiting_) while_waiting_();
                                                           }},
                                     exchange);
    Placement placement{.version = 3, .num_workers = setup_.num_workers};
    placement.worker_le.resize(2);
    for (int64_t e = 0; e < setup_.num_experts; ++e)
      placement.worker_le[kLayer].push_back(static_cast<int32_t>(e % setup_.num_workers));
    dispatcher_->set_placement(std::move(placement));
  }

  static std::string name(int w) { return "w" + std::to_string(w); }
  uint64_t generation(int w) const { return 100 + static_cast<uint64_t>(w); }
  void attach(int w) {
    const auto i = static_cast<size_t>(w);
    peers_.resize(workers_.size());
    peers_[i] = router_end_->connect(name(w), workers_[i]->exchange->local_address()).value();
    dispatcher_->attach(w, name(w), peers_[i], generation(w));
  }
  void reattach(int w) {
    workers_[static_cast<size_t>(w)]->reconnect();
    attach(w);
  }

  bool pump() {
    bool worked = false;
    for (auto& w : workers_) worked |= w->poll();
    return worked;
  }

  // Token t's choices; row t of x counts up from t + 1.
  void choose(const std::vector<std::vector<int32_t>>& expert_tk) {
    num_tokens_ = static_cast<int64_t>(expert_tk.size());
    expert_tk_.clear(), weight_tk_.clear(), x_th_.clear();
    for (size_t t = 0; t < expert_tk.size(); ++t) {
      expert_tk_.insert(expert_tk_.end(), expert_tk[t].begin(), expert_tk[t].end());
      for (size_t k = 0; k < expert_tk[t].size(); ++k) weight_tk_.push_back(0.5f / static_cast<float>(k + 1));
      for (int64_t h = 0; h < setup_.hidden; ++h)
        x_th_.push_back(static_cast<float>(t + 1) + static_cast<float>(h));
    }
  }
  // Random choices and rows whose sums depend on the order of their terms.
  void choose_randomly(int64_t num_tokens, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::vector<int32_t>> experts;
    std::vector<int32_t> all(static_cast<size_t>(setup_.num_experts));
    for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
    for (int64_t t = 0; t < num_tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random);
      experts.emplace_back(all.begin(), all.begin() + setup_.top_k);
    }
    choose(experts);
    std::normal_distribution<float> normal;
    for (float& v : x_th_) v = normal(random) * 1e3f;
    for (float& v : weight_tk_) v = normal(random);
  }

  View2<const float> x() const { return {x_th_.data(), num_tokens_, setup_.hidden}; }
  View2<const int32_t> experts() const { return {expert_tk_.data(), num_tokens_, setup_.top_k}; }
  View2<const float> weights() const { return {weight_tk_.data(), num_tokens_, setup_.top_k}; }

  Result<void> dispatch() { return dispatcher_->dispatch({.layer = kLayer}, x(), experts(), weights()); }
  Result<void> combine() {
    y_th_.assign(x_th_.size(), 1.0f);
    return dispatcher_->combine(0, {y_th_.data(), num_tokens_, setup_.hidden});
  }
  Result<void> step() {
    GH_TRY(dispatch());
    return combine();
  }

  // What y must be: combine_ref over each pair's row, rounded as the codec rounds.
  std::vector<float> expected() const {
    const auto round = [&](float v) { return setup_.codec == Codec::f32 ? v : to_float(to_bf16(v)); };
    std::vector<float> rows_ph;
    std::vector<int32_t> index_tk;
    for (size_t p = 0; p < expert_tk_.size(); ++p) {
      index_tk.push_back(static_cast<int32_t>(p));
      const float* row = x().row(static_cast<int64_t>(p) / setup_.top_k);
      for (int64_t h = 0; h < setup_.hidden; ++h)
        rows_ph.push_back(round(scripted_expert(round(row[h]), static_cast<uint16_t>(expert_tk_[p]))));
    }
    std::vector<float> y(x_th_.size(), 1.0f);
    combine_ref({rows_ph.data(), static_cast<int64_t>(expert_tk_.size()), setup_.hidden},
                {index_tk.data(), num_tokens_, setup_.top_k}, weights(),
                {y.data(), num_tokens_, setup_.hidden});
    return y;
  }
  void expect_a_good_step() {
    const Result<void> done = step();
    ASSERT_FALSE(done.has_error()) << done.error().message;
    EXPECT_EQ(y_th_, expected());
  }

  ScriptedWorker& worker(int w) { return *workers_[static_cast<size_t>(w)]; }

  DispatcherSetup setup_;
  LoopbackFabric fabric_;
  std::unique_ptr<Exchange> router_end_;
  std::vector<std::unique_ptr<ScriptedWorker>> workers_;
  std::vector<PeerId> peers_;  // the workers', at the router's end
  std::unique_ptr<Dispatcher> dispatcher_;
  std::function<void()> while_waiting_;
  int64_t num_tokens_ = 0;
  std::vector<int32_t> expert_tk_;
  std::vector<float> x_th_, weight_tk_, y_th_;
};

}  // namespace guildhall
