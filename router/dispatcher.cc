#include "router/dispatcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "kernels/combine.h"
#include "kernels/convert.h"
#include "proto/codec.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kWaitSlice{20};  // between looks at the deadline

void encode_row(Codec codec, std::span<const float> row, std::byte* out) {
  if (codec == Codec::bf16)
    to_bf16_cpu(row, reinterpret_cast<bf16*>(out));
  else
    std::memcpy(out, row.data(), row.size_bytes());
}

// All rows of a combine, into fp32.
void decode_rows(const CombineView& view, float* out) {
  if (static_cast<Codec>(view.header.codec) == Codec::bf16)
    from_bf16_cpu(rows_as<bf16>(view), out);
  else
    std::memcpy(out, view.rows.data(), view.rows.size());
}

}  // namespace

Dispatcher::Dispatcher(DispatcherOptions options, Exchange& exchange)
    : options_(std::move(options)), exchange_(exchange) {
  const auto pairs = static_cast<size_t>(options_.max_tokens * options_.top_k);
  rows_ph_.resize(pairs * static_cast<size_t>(options_.hidden));
  index_tk_.resize(pairs);
}

void Dispatcher::set_placement(Placement placement) {
  placement_ = std::move(placement);
  workers_.resize(static_cast<size_t>(placement_.num_workers));
}

void Dispatcher::attach(int32_t worker, std::string name, PeerId peer, uint64_t generation) {
  detach(worker);
  Worker& w = workers_[static_cast<size_t>(worker)];
  w.name = std::move(name);
  w.peer = peer;
  w.generation = generation;
}

void Dispatcher::detach(int32_t worker) {
  Worker& w = workers_[static_cast<size_t>(worker)];
  if (w.peer) exchange_.disconnect(*w.peer);
  w.peer.reset();
  if (w.awaited) fail({Code::peer_lost, fmt::format("worker={}: its link ended", w.name)});
}

bool Dispatcher::all_attached() const {
  return placement_.version > 0 &&
         std::all_of(workers_.begin(), workers_.end(), [](const Worker& w) { return w.peer.has_value(); });
}

Result<void> Dispatcher::dispatch(int64_t layer, View2<const float> x_th, View2<const int32_t> expert_tk,
                                  View2<const float> weight_tk) {
  ++step_id_;
  layer_ = layer;
  num_awaited_ = 0;
  failure_.reset();
  expert_tk_ = expert_tk;
  weight_tk_ = weight_tk;
  outgoing_.clear();
  route(expert_tk, weight_tk, placement_.worker_le[static_cast<size_t>(layer)]);

  int64_t first_pair = 0;
  for (Worker& worker : workers_) {
    worker.first_pair = first_pair;
    first_pair += static_cast<int64_t>(worker.pairs.size());
    if (worker.pairs.empty()) continue;
    const Result<size_t> bytes = pack(worker, layer, x_th);
    if (bytes.has_error()) {
      exchange_.post(outgoing_);  // gives the acquired regions back; the answers will be stale
      return bytes.error();
    }
    outgoing_.push_back({*worker.peer, *bytes});
    worker.awaited = true;
    ++num_awaited_;
    counters_.bytes_sent += static_cast<int64_t>(*bytes);
  }
  exchange_.post(outgoing_);
  ++counters_.dispatches;
  counters_.pairs += first_pair;
  return {};
}

// Lists each worker's rows and pairs, in token and gate order.
void Dispatcher::route(View2<const int32_t> expert_tk, View2<const float> weight_tk,
                       const std::vector<int32_t>& worker_e) {
  for (Worker& w : workers_) {
    w.row_token.clear(), w.pair_slot.clear(), w.pairs.clear();
    w.awaited = false;
  }
  touched_e_.assign(worker_e.size(), 0);
  for (int64_t t = 0; t < expert_tk.rows; ++t) {
    for (int64_t k = 0; k < expert_tk.cols; ++k) {
      const int32_t expert = expert_tk(t, k);
      counters_.experts_touched += 1 - touched_e_[static_cast<size_t>(expert)];
      touched_e_[static_cast<size_t>(expert)] = 1;
      Worker& w = workers_[static_cast<size_t>(worker_e[static_cast<size_t>(expert)])];
      if (w.row_token.empty() || w.row_token.back() != t) w.row_token.push_back(static_cast<int32_t>(t));
      w.pair_slot.push_back(static_cast<int32_t>(t * expert_tk.cols + k));
      w.pairs.push_back({.row = static_cast<uint32_t>(w.row_token.size() - 1),
                         .expert = static_cast<uint16_t>(expert),
                         .gate_rank = static_cast<uint16_t>(k),
                         .weight = weight_tk(t, k)});
    }
  }
}

Result<size_t> Dispatcher::pack(Worker& worker, int64_t layer, View2<const float> x_th) {
  if (!worker.peer) return Status{Code::peer_lost, fmt::format("worker={}: not connected", worker.name)};
  const FrameShape shape{.num_rows = static_cast<uint32_t>(worker.row_token.size()),
                         .num_pairs = static_cast<uint32_t>(worker.pairs.size()),
                         .hidden = static_cast<uint32_t>(options_.hidden),
                         .codec = options_.codec};
  const FrameFields fields{.generation = worker.generation,
                           .step_id = step_id_,
                           .placement_version = placement_.version,
                           .layer = static_cast<uint16_t>(layer)};
  const auto region = exchange_.acquire(*worker.peer, frame_layout(shape).total_bytes);
  if (region.has_error()) {
    // A loss shows here first, before a poll reports it.
    if (region.error().code == Code::peer_lost) on_peer_lost(*worker.peer, region.error());
    return Status{region.error().code, fmt::format("worker={}: {}", worker.name, region.error().message)};
  }
  const FrameSections sections = begin_dispatch(fields, shape, *region);
  std::copy(worker.pairs.begin(), worker.pairs.end(), sections.pairs.begin());
  for (size_t i = 0; i < worker.row_token.size(); ++i)
    encode_row(options_.codec, {x_th.row(worker.row_token[i]), static_cast<size_t>(options_.hidden)},
               sections.row(i));
  return sections.total_bytes;
}

Result<void> Dispatcher::combine(View2<float> y_th) {
  GH_TRY(wait_for_answers());
  for (const Worker& w : workers_)
    for (size_t i = 0; i < w.pair_slot.size(); ++i)
      index_tk_[static_cast<size_t>(w.pair_slot[i])] =
          static_cast<int32_t>(w.first_pair + static_cast<int64_t>(i));
  combine_cpu({rows_ph_.data(), expert_tk_.rows * expert_tk_.cols, options_.hidden},
              {index_tk_.data(), expert_tk_.rows, expert_tk_.cols}, weight_tk_, y_th);
  return {};
}

Result<void> Dispatcher::wait_for_answers() {
  const auto deadline = Clock::now() + options_.deadline;
  while (num_awaited_ > 0 && !failure_) {
    const bool local_work = options_.pump_local_workers && options_.pump_local_workers();
    if (exchange_.poll(*this) > 0 || local_work) continue;
    if (options_.while_waiting) options_.while_waiting();
    if (failure_) break;
    if (Clock::now() > deadline)
      give_up_late_workers();
    else
      exchange_.wait(kWaitSlice);
  }
  if (failure_) return *failure_;
  return {};
}

// Those that have not answered are detached, so that their late frames find no link.
void Dispatcher::give_up_late_workers() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].awaited) continue;
    const Status late{Code::deadline_exceeded,
                      fmt::format("worker={}: no answer for layer {} within {} (transport.deadline)",
                                  workers_[i].name, layer_, format_duration(options_.deadline))};
    fail(late);
    detach(static_cast<int32_t>(i));
    lost_.emplace_back(static_cast<int32_t>(i), late);
  }
}

// The first reason counts.
void Dispatcher::fail(Status status) {
  if (!failure_) failure_ = std::move(status);
}

void Dispatcher::poll() {
  while (exchange_.poll(*this) > 0) {
  }
}

std::vector<std::pair<int32_t, Status>> Dispatcher::take_lost() { return std::exchange(lost_, {}); }

Dispatcher::Worker* Dispatcher::find(PeerId peer) {
  for (Worker& w : workers_)
    if (w.peer == peer) return &w;
  return nullptr;
}

void Dispatcher::on_frame(PeerId peer, std::span<const std::byte> bytes) {
  Worker* w = find(peer);
  if (w == nullptr) return;
  counters_.bytes_received += static_cast<int64_t>(bytes.size());
  const Result<FrameHeader> header = decode_header(bytes);
  if (header.has_error()) return drop_link(*w, header.error());
  const bool current = w->awaited && header->generation == w->generation && header->step_id == step_id_ &&
                       header->layer == layer_;
  if (!current) {
    ++counters_.stale_frames;
    return;
  }
  if (static_cast<FrameKind>(header->kind) == FrameKind::failure) {
    const Result<FailureView> failure = decode_failure(bytes);
    if (failure.has_error()) return drop_link(*w, failure.error());
    w->awaited = false;
    --num_awaited_;
    return fail({failure->why.code, fmt::format("worker={}: {}", w->name, failure->why.message)});
  }
  const Result<CombineView> answer = decode_combine(bytes);
  if (answer.has_error()) return drop_link(*w, answer.error());
  if (answer->header.num_rows != w->pairs.size() || answer->header.hidden != options_.hidden)
    return drop_link(
        *w, {Code::data_loss, fmt::format("answered {} rows of {} for {} of {}", answer->header.num_rows,
                                          answer->header.hidden, w->pairs.size(), options_.hidden)});
  decode_rows(*answer, rows_ph_.data() + w->first_pair * options_.hidden);
  w->awaited = false;
  --num_awaited_;
}

// A frame that cannot be right ends this link, and this link only.
void Dispatcher::drop_link(Worker& worker, const Status& why) {
  const Status named{why.code, fmt::format("worker={}: bad frame: {}", worker.name, why.message)};
  if (worker.awaited) fail(named);
  const auto idx = static_cast<int32_t>(&worker - workers_.data());
  detach(idx);
  lost_.emplace_back(idx, named);
}

void Dispatcher::on_peer_lost(PeerId peer, const Status& why) {
  Worker* w = find(peer);
  if (w == nullptr) return;
  const Status named{Code::peer_lost, fmt::format("worker={}: {}", w->name, why.message)};
  if (w->awaited) fail(named);
  const auto idx = static_cast<int32_t>(w - workers_.data());
  detach(idx);
  lost_.emplace_back(idx, named);
}

}  // namespace guildhall
