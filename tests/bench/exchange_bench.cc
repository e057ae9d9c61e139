// exchange_bench.cc: what a layer's dispatch and combine cost when the experts cost nothing: the real
// Dispatcher in this process, empty experts in others. Prints one JSON object; tests/bench/exchange puts it
// beside what ucx_perftest reaches on the same transport.
//
//   exchange_bench --tokens 1 --hidden 7168 --top-k 1 --workers 1 --tls tcp
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <random>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "proto/codec.h"
#include "router/dispatcher.h"
#include "tests/bench/empty_experts.h"
#include "tests/bench/pin.h"

namespace guildhall {
namespace {

struct Case {
  int64_t tokens = 1, hidden = 7168, top_k = 1, num_experts = 64;
  int num_workers = 1, num_replicas = 1;
  std::string tls = "tcp", net_devices, codec = "bf16", combine = "exact", wait = "spin", slot_size = "32MiB";
  int threads = 1;
  bool packs = true, pinned = false;
  double seconds = 1;
};

struct Routing {
  std::vector<int32_t> expert_tk;
  std::vector<float> weight_tk;
};

// Distinct experts per token, drawn evenly.
Routing random_routing(const Case& c) {
  std::mt19937 random(1);
  std::vector<int32_t> experts(static_cast<size_t>(c.num_experts));
  for (size_t e = 0; e < experts.size(); ++e) experts[e] = static_cast<int32_t>(e);
  Routing routing;
  for (int64_t t = 0; t < c.tokens; ++t) {
    std::shuffle(experts.begin(), experts.end(), random);
    routing.expert_tk.insert(routing.expert_tk.end(), experts.begin(), experts.begin() + c.top_k);
    routing.weight_tk.insert(routing.weight_tk.end(), static_cast<size_t>(c.top_k), 1.0f / c.top_k);
  }
  return routing;
}

// Of one layer: experts lie in order, and each on as many workers as are asked for.
ExpertsOfLayer held_by(const Case& c, int worker) {
  ExpertsOfLayer experts_l(1);
  for (int64_t e = 0; e < c.num_experts; ++e) {
    const auto first = static_cast<int>(e * c.num_workers / c.num_experts);
    if ((worker - first + c.num_workers) % c.num_workers < c.num_replicas)
      experts_l[0].push_back(static_cast<int32_t>(e));
  }
  return experts_l;
}

void check(const Result<void>& result) {
  if (!result.has_error()) return;
  fmt::print(stderr, "exchange_bench: {}\n", to_string(result.error()));
  std::exit(1);
}

UcxOptions ucx_options(const Case& c) {
  UcxOptions options{.tls = c.tls, .net_devices = c.net_devices};
  options.wait.mode = c.wait == "spin" ? WaitMode::spin : WaitMode::adaptive;
  options.slots.bytes = static_cast<size_t>(*parse_bytes(c.slot_size));
  return options;
}

Codec codec_of(const Case& c) {
  return c.codec == "fp8" ? Codec::fp8 : c.codec == "bf16" ? Codec::bf16 : Codec::f32;
}

// Frames of a dispatch's shapes there and back, their rows neither packed nor summed: what the exchange alone
// carries.
class UnpackedFrames : public ExchangeHandler {
 public:
  UnpackedFrames(const Case& c, Exchange& exchange, std::vector<PeerId> peers)
      : exchange_(exchange), peers_(std::move(peers)) {
    round_.share_w.resize(peers_.size());
    round_.combine = c.combine == "reduced" ? Combine::reduced : Combine::exact;
    routing_ = random_routing(c);
    LivePlacement placement({{true}, c.num_experts}, c.num_workers);
    for (int w = 0; w < c.num_workers; ++w) placement.attach(w, {1, held_by(c, w)});
    const LayerReplicas replicas = placement.table().layer(0);
    const View2<const int32_t> expert_tk{routing_.expert_tk.data(), c.tokens, c.top_k};
    ReplicaChooser chooser({}, c.num_workers);
    chooser.begin(0, replicas, {}, expert_tk);
    round_.route(expert_tk, {routing_.weight_tk.data(), c.tokens, c.top_k}, replicas, chooser);
    hidden_ = static_cast<uint32_t>(c.hidden);
    codec_ = codec_of(c);
  }

  void round() {
    for (size_t w = 0; w < peers_.size(); ++w) {
      const DispatchRound::Share& share = round_.share_w[w];
      const FrameShape shape{.num_rows = static_cast<uint32_t>(share.row_token.size()),
                             .num_pairs = static_cast<uint32_t>(share.pairs.size()),
                             .hidden = hidden_,
                             .codec = codec_};
      const auto region = exchange_.acquire(peers_[w], frame_layout(shape).total_bytes);
      if (region.has_error()) check(region.error());
      const FrameSections frame =
          begin_dispatch({.combine = round_.combine, .answer_codec = codec_}, shape, *region);
      std::ranges::copy(share.pairs, frame.pairs.begin());
      const Exchange::Outgoing outgoing{peers_[w], frame.total_bytes};
      exchange_.post({&outgoing, 1});
      counters_.bytes_sent += static_cast<int64_t>(frame.total_bytes);
    }
    for (num_answers_ = 0; num_answers_ < peers_.size();)
      if (exchange_.poll(*this) == 0) exchange_.wait(std::chrono::milliseconds(20));
  }
  const DispatchCounters& counters() const { return counters_; }

  void on_frame(PeerId, std::span<const std::byte> bytes) override {
    ++num_answers_;
    counters_.bytes_received += static_cast<int64_t>(bytes.size());
  }
  void on_peer_lost(PeerId, const Status& why) override { check(why); }

 private:
  Exchange& exchange_;
  const std::vector<PeerId> peers_;
  Routing routing_;
  DispatchRound round_;
  uint32_t hidden_;
  Codec codec_;
  size_t num_answers_ = 0;
  DispatchCounters counters_;
};

void run(const Case& c) {
  EmptyExperts workers(
      {.num_workers = c.num_workers, .copies_rows = c.packs, .pinned = c.pinned, .ucx = ucx_options(c)});
  if (c.pinned) pin_to_core(0);
  auto opened = UcxExchange::open(ucx_options(c));
  if (opened.has_error()) check(opened.error());
  UcxExchange& exchange = **opened;
  const Codec codec = codec_of(c);
  Team team({.num_threads = c.threads});
  Dispatcher dispatcher(
      {.experts = {{true}, c.num_experts},
       .num_workers = c.num_workers,
       .codecs_w = std::vector<RowCodecs>(static_cast<size_t>(c.num_workers), {codec, codec}),
       .combine = c.combine == "reduced" ? Combine::reduced : Combine::exact,
       .hidden = c.hidden,
       .top_k = c.top_k,
       .max_tokens = c.tokens,
       .deadline = std::chrono::seconds(10),
       .team = &team},
      exchange);
  const std::vector<PeerId> peers = workers.meet(exchange);
  for (size_t i = 0; i < peers.size(); ++i)
    dispatcher.attach(static_cast<int32_t>(i), fmt::format("w{}", i), peers[i], 1,
                      {1, held_by(c, static_cast<int>(i))});

  Routing routing = random_routing(c);
  const View2<int32_t> expert_tk(routing.expert_tk.data(), c.tokens, c.top_k);
  const View2<float> weight_tk(routing.weight_tk.data(), c.tokens, c.top_k);
  std::vector<float> x(static_cast<size_t>(c.tokens * c.hidden), 0.5f), y(x.size());
  const View2<float> x_th(x.data(), c.tokens, c.hidden), y_th(y.data(), c.tokens, c.hidden);
  UnpackedFrames unpacked(c, exchange, peers);
  const auto round = [&] {
    if (!c.packs) return unpacked.round();
    check(dispatcher.dispatch({}, View2<const float>(x_th), expert_tk, weight_tk));
    check(dispatcher.combine(0, y_th));
  };

  for (int i = 0; i < 50; ++i) round();  // connections, slots, pages
  const DispatchCounters& counters = c.packs ? dispatcher.counters() : unpacked.counters();
  const DispatchCounters before = counters;
  std::vector<double> round_us;
  const auto begin = Clock::now();
  const auto end =
      begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(c.seconds));
  while (Clock::now() < end) {
    const int64_t start = now_ns();
    round();
    round_us.push_back(static_cast<double>(now_ns() - start) / 1e3);
  }
  const DispatchCounters& after = counters;
  std::sort(round_us.begin(), round_us.end());
  const auto rounds = static_cast<double>(round_us.size());
  fmt::print(
      R"({{"via": "{}", "rounds": {}, "p50_us": {:.3f}, "p99_us": {:.3f}, "sent_bytes": {:.1f}, "received_bytes": {:.1f}, "slot_share": {:.3f}}})"
      "\n",
      exchange.describe(peers[0]), round_us.size(), round_us[round_us.size() / 2],
      round_us[round_us.size() * 99 / 100],
      static_cast<double>(after.bytes_sent - before.bytes_sent) / rounds,
      static_cast<double>(after.bytes_received - before.bytes_received) / rounds,
      static_cast<double>(exchange.counters().sent_to_slots) / static_cast<double>(exchange.counters().sent));
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) {
  using namespace guildhall;
  init_log("exchange_bench", "warn");
  Case c;
  CLI::App app("Times dispatch + combine against experts that compute nothing");
  app.add_option("--tokens", c.tokens);
  app.add_option("--hidden", c.hidden);
  app.add_option("--top-k", c.top_k);
  app.add_option("--experts", c.num_experts);
  app.add_option("--workers", c.num_workers);
  app.add_option("--replicas", c.num_replicas, "of each expert");
  app.add_option("--tls", c.tls, "as UCX_TLS");
  app.add_option("--net-devices", c.net_devices, "as UCX_NET_DEVICES");
  app.add_option("--codec", c.codec, "f32 | bf16 | fp8");
  app.add_option("--combine", c.combine, "exact | reduced");
  app.add_option("--wait", c.wait, "spin | adaptive");
  app.add_option("--slot-size", c.slot_size);
  app.add_option("--threads", c.threads, "that pack and sum");
  app.add_flag("!--no-packing", c.packs, "frames go as they stand in memory: the exchange alone");
  app.add_flag("--pinned", c.pinned, "the router to core 0, worker i to core i + 1");
  app.add_option("--seconds", c.seconds);
  CLI11_PARSE(app, argc, argv);
  run(c);
}
