// dispatcher_fixture.h: a dispatcher whose workers are scripts: raw loopback ends that record what they get
// and answer, or not, as the test says. All on one thread: scripts run while the dispatcher waits.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "kernels/combine.h"
#include "kernels/row_codec.h"
#include "proto/codec.h"
#include "proto/hint_codec.h"
#include "router/dispatcher.h"
#include "transport/loopback.h"

namespace guildhall {

// For tests in which somebody is late: long enough that nobody else is on a machine that stalls.
inline constexpr std::chrono::milliseconds kShortDeadline{400};

// An expert of the scripts: scales the row by 1 + its number.
inline float scripted_expert(float x, uint16_t expert) { return x * static_cast<float>(1 + expert); }

inline std::vector<float> decoded(Codec codec, const std::byte* row, size_t hidden) {
  std::vector<float> x(hidden);
  decode_row(codec, row, x);
  return x;
}
// What is left of a row after it travelled.
inline std::vector<float> travelled(Codec codec, const std::vector<float>& x) {
  std::vector<std::byte> row(row_bytes(codec, x.size()));
  encode_row(codec, x, row.data());
  return decoded(codec, row.data(), x.size());
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

  static FrameFields fields_of(const FrameHeader& h) { return answer_fields(h); }
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
    FrameShape shape = answer_shape(d.header);
    const std::vector<std::vector<float>> rows = answer_rows(d);
    shape.num_rows = static_cast<uint32_t>(static_cast<int>(shape.num_rows) + extra_rows);
    std::vector<std::byte> bytes(frame_layout(shape).total_bytes);
    const FrameSections out = begin_combine(fields, shape, bytes);
    for (size_t i = 0; i < std::min<size_t>(shape.num_rows, rows.size()); ++i)
      encode_row(shape.codec, rows[i], out.row(i));
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
    if (const auto hint = decode_hint(bytes); !hint.has_error()) {
      hints.push_back({hint->header.layer, {hint->experts.begin(), hint->experts.end()}});
      return;
    }
    frames.emplace_back(bytes.begin(), bytes.end());
    serve(decode_dispatch(bytes).value());
  }
  void on_peer_lost(PeerId, const Status&) override {}

  DispatchView received(size_t i) const { return decode_dispatch(frames.at(i)).value(); }

  // One per pair, or each row's weighted sum, as was asked for.
  static std::vector<std::vector<float>> answer_rows(const DispatchView& d) {
    std::vector<std::vector<float>> rows;
    const bool reduced = combine_of(d.header) == Combine::reduced;
    if (reduced) rows.assign(d.header.num_rows, std::vector<float>(d.header.hidden));
    for (const DispatchPair& pair : d.pairs) {
      std::vector<float> x = decoded(codec_of(d.header), d.row(pair.row), d.header.hidden);
      for (float& v : x) v = scripted_expert(v, pair.expert);
      if (!reduced)
        rows.push_back(x);
      else
        for (size_t i = 0; i < x.size(); ++i) rows[pair.row][i] += pair.weight * x[i];
    }
    return rows;
  }

  std::unique_ptr<Exchange> exchange;
  PeerId router = 0;
  std::vector<std::vector<std::byte>> frames;  // but for hints
  struct Hint {
    uint16_t layer;
    std::vector<uint16_t> experts;
  };
  std::vector<Hint> hints;

 private:
  std::string router_address_;
};

struct DispatcherSetup {
  int num_workers = 2;
  int64_t num_experts = 6, top_k = 2, hidden = 4, max_tokens = 8;
  RowCodecs codecs;
  std::optional<RowCodecs> codecs_of_w1;  // where they differ from the others'
  std::set<int> offloading;               // workers
  int num_replicas = 1;                   // expert e is on workers e, e + 1, ..., counted round
  ReplicaRules rules;
  Combine combine = Combine::exact;
  std::chrono::nanoseconds deadline = std::chrono::minutes(1);
};

class DispatcherTest : public ::testing::Test {
 protected:
  static constexpr int64_t kLayer = 1;  // layer 0 is dense
  Team team_{TeamOptions{}};

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
        std::make_unique<Dispatcher>(DispatcherOptions{.experts = {{false, true}, setup_.num_experts},
                                                       .num_workers = setup_.num_workers,
                                                       .replicas = setup_.rules,
                                                       .codecs_w = codecs_w(),
                                                       .combine = setup_.combine,
                                                       .hidden = setup_.hidden,
                                                       .top_k = setup_.top_k,
                                                       .max_tokens = setup_.max_tokens,
                                                       .deadline = setup_.deadline,
                                                       .team = &team_,
                                                       .pump_local_workers = [this] { return pump(); },
                                                       .routing = routing_,
                                                       .while_waiting =
                                                           [this] {
                                                             if (while_waiting_) while_waiting_();
                                                           }},
                                     exchange);
  }

  Holdings holdings(int w) const {
    Holdings held{.version = 3 + static_cast<uint32_t>(w),
                  .experts_l = ExpertsOfLayer(2),
                  .offloads = setup_.offloading.count(w) > 0};
    for (int32_t e = 0; e < setup_.num_experts; ++e)
      if ((w + setup_.num_workers - e % setup_.num_workers) % setup_.num_workers < setup_.num_replicas)
        held.experts_l[kLayer].push_back(e);
    return held;
  }

  std::vector<RowCodecs> codecs_w() const {
    std::vector<RowCodecs> list(static_cast<size_t>(setup_.num_workers), setup_.codecs);
    if (setup_.codecs_of_w1) list.at(1) = *setup_.codecs_of_w1;
    return list;
  }
  static std::string name(int w) { return "w" + std::to_string(w); }
  uint64_t generation(int w) const { return 100 + static_cast<uint64_t>(w); }
  void attach(int w) {
    const auto i = static_cast<size_t>(w);
    peers_.resize(workers_.size());
    peers_[i] = router_end_->connect(name(w), workers_[i]->exchange->local_address()).value();
    dispatcher_->attach(w, name(w), peers_[i], generation(w), holdings(w));
  }
  void reattach(int w) {
    workers_[static_cast<size_t>(w)]->reconnect();
    attach(w);
  }

  bool all_attached() { return dispatcher_->placement().all_attached(); }

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

  // What y must be: combine_ref over each choice's row, after it travelled; reduced: over each worker's sum.
  std::vector<float> expected() const {
    const bool reduced = setup_.combine == Combine::reduced;
    const auto num_workers = static_cast<int64_t>(setup_.num_workers), hidden = setup_.hidden;
    const int64_t num_k = reduced ? num_workers : setup_.top_k;
    std::vector<float> rows_ph;
    std::vector<int32_t> index_tk(static_cast<size_t>(num_tokens_ * num_k), -1);
    const std::vector<RowCodecs> codecs = codecs_w();
    const auto append = [&](int64_t t, int64_t k, size_t worker, const std::vector<float>& row) {
      index_tk[static_cast<size_t>(t * num_k + k)] =
          static_cast<int32_t>(rows_ph.size()) / static_cast<int32_t>(hidden);
      const std::vector<float> arrived = travelled(codecs[worker].combine, row);
      rows_ph.insert(rows_ph.end(), arrived.begin(), arrived.end());
    };
    for (int64_t t = 0; t < num_tokens_; ++t) {
      std::vector<std::vector<float>> sum_w(static_cast<size_t>(num_workers));
      for (int64_t k = 0; k < setup_.top_k; ++k) {
        const auto worker = static_cast<size_t>(experts()(t, k) % num_workers);
        std::vector<float> row = travelled(codecs[worker].dispatch, {x().row(t), x().row(t) + hidden});
        for (float& v : row) v = scripted_expert(v, static_cast<uint16_t>(experts()(t, k)));
        if (!reduced) append(t, k, worker, row);
        auto& sum = sum_w[worker];
        sum.resize(row.size());
        for (size_t i = 0; i < row.size(); ++i) sum[i] += weights()(t, k) * row[i];
      }
      for (size_t w = 0; reduced && w < sum_w.size(); ++w)
        if (!sum_w[w].empty()) append(t, static_cast<int64_t>(w), w, sum_w[w]);
    }
    const std::vector<float> ones(index_tk.size(), 1.0f);
    std::vector<float> y(x_th_.size(), 1.0f);
    combine_ref({rows_ph.data(), static_cast<int64_t>(rows_ph.size()) / hidden, hidden},
                {index_tk.data(), num_tokens_, num_k},
                reduced ? View2<const float>{ones.data(), num_tokens_, num_k} : weights(),
                {y.data(), num_tokens_, hidden});
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
  StepRouting* routing_ = nullptr;
  int64_t num_tokens_ = 0;
  std::vector<int32_t> expert_tk_;
  std::vector<float> x_th_, weight_tk_, y_th_;
};

}  // namespace guildhall
