#include "router/dispatcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "kernels/combine_encoded.h"
#include "kernels/parallel_rows.h"
#include "kernels/row_codec.h"
#include "proto/codec.h"
#include "proto/hint_codec.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kWaitSlice{20};  // between looks at the deadline
// A frame this large goes as soon as it is packed, so that its worker reads it while the next is packed;
// smaller ones go together, behind one fence.
constexpr size_t kLargeFrameBytes = 64 << 10;

}  // namespace

Dispatcher::Dispatcher(DispatcherOptions options, Exchange& exchange)
    : options_(std::move(options)),
      exchange_(exchange),
      placement_(options_.experts, options_.num_workers),
      chooser_(options_.replicas, options_.num_workers),
      workers_(static_cast<size_t>(options_.num_workers)) {
  const auto pairs = static_cast<size_t>(options_.max_tokens * options_.top_k);
  GH_CHECK(options_.team != nullptr);
  if (options_.codecs_w.empty()) options_.codecs_w.resize(workers_.size());
  GH_CHECK(options_.codecs_w.size() == workers_.size());
  row_tk_.resize(pairs);
  if (options_.combine == Combine::reduced) one_tk_.assign(pairs, 1.0f);
  for (DispatchRound& round : round_m_) round.share_w.resize(workers_.size());
}

void Dispatcher::attach(int32_t worker, std::string name, PeerId peer, uint64_t generation,
                        Holdings holdings) {
  Worker& w = workers_[static_cast<size_t>(worker)];
  w.name = std::move(name);
  w.peer = peer;
  w.generation = generation;
  placement_.attach(worker, std::move(holdings));
  count_offloading();
}

void Dispatcher::set_holdings(int32_t worker, Holdings holdings) {
  placement_.announce(worker, std::move(holdings));
  count_offloading();
}

bool Dispatcher::is_attached(int32_t worker, uint64_t generation) const {
  const Worker& w = workers_[static_cast<size_t>(worker)];
  return w.peer && w.generation == generation;
}

void Dispatcher::detach(int32_t worker) {
  Worker& w = workers_[static_cast<size_t>(worker)];
  if (w.peer) exchange_.disconnect(*w.peer);
  w.peer.reset();
  placement_.detach(worker);
  count_offloading();
  if (is_awaited(worker)) fail({Code::peer_lost, fmt::format("worker={}: its link ended", w.name)});
}

RowCodecs Dispatcher::common_codecs() const {
  RowCodecs common = options_.codecs_w.front();
  for (const RowCodecs& codecs : options_.codecs_w) {
    if (codecs.dispatch != common.dispatch) common.dispatch = Codec::f32;
    if (codecs.combine != common.combine) common.combine = Codec::f32;
  }
  return common;
}

bool Dispatcher::sends_tails(size_t bytes) const {
  return std::ranges::all_of(
      workers_, [&](const Worker& w) { return !w.peer || exchange_.sends_tail(*w.peer, bytes); });
}

Result<void> Dispatcher::dispatch(const DispatchKey& key, const EncodedRows& rows,
                                  View2<const int32_t> expert_tk, View2<const float> weight_tk) {
  DispatchRound& round = round_m_[static_cast<size_t>(key.micro_batch)];
  GH_CHECK(!round.open && rows.num_rows <= options_.max_tokens);
  if (failure_) return abandon_step(*failure_);
  if (const Result<void> covered = check_covered(); covered.has_error()) return abandon_step(covered.error());
  const LayerReplicas replicas = placement_.table().layer(key.layer);
  round.open = true;
  round.step_id = ++step_id_;
  round.layer = key.layer;
  round.micro_batch = key.micro_batch;
  round.combine = options_.combine;
  round.num_awaited = 0;
  chooser_.begin(key.layer, replicas, key.owners, expert_tk);
  round.route(expert_tk, weight_tk, replicas, chooser_);
  const Result<void> sent = send(round, rows);
  if (sent.has_error()) return abandon_step(sent.error());
  if (options_.routing)
    counters_.experts_touched += options_.routing->count(key.layer, key.first_token, expert_tk);
  ++counters_.dispatches;
  counters_.pairs += round.num_pairs();
  return {};
}

void Dispatcher::count_offloading() {
  num_offloading_ = 0;
  for (int32_t w = 0; w < static_cast<int32_t>(workers_.size()); ++w)
    if (placement_.is_attached(w) && placement_.announced(w).offloads) ++num_offloading_;
}

// ---- hints

void Dispatcher::hint(int64_t layer, View2<const int32_t> expert_tk) {
  list_by_rows(expert_tk);
  for (size_t w = 0; w < workers_.size(); ++w) {
    const auto worker = static_cast<int32_t>(w);
    if (!workers_[w].peer || !placement_.announced(worker).offloads) continue;
    const std::vector<int32_t>& held = placement_.announced(worker).experts_l[static_cast<size_t>(layer)];
    hinted_there_.clear();
    std::ranges::copy_if(hinted_, std::back_inserter(hinted_there_),
                         [&](uint16_t expert) { return std::ranges::binary_search(held, expert); });
    if (hinted_there_.empty()) continue;
    const auto region = exchange_.acquire(*workers_[w].peer, hint_frame_bytes(hinted_there_.size()));
    if (region.has_error()) continue;  // a loss shows in the next dispatch
    const size_t bytes =
        write_hint(workers_[w].generation, step_id_, static_cast<uint16_t>(layer), hinted_there_, *region);
    const Exchange::Outgoing frame{*workers_[w].peer, bytes};
    exchange_.post({&frame, 1});
  }
}

void Dispatcher::list_by_rows(View2<const int32_t> expert_tk) {
  num_tokens_e_.assign(static_cast<size_t>(options_.experts.num_experts), 0);
  hinted_.clear();
  for (int64_t t = 0; t < expert_tk.rows; ++t)
    for (int64_t k = 0; k < expert_tk.cols; ++k) {
      const int32_t expert = expert_tk.row(t)[k];
      if (num_tokens_e_[static_cast<size_t>(expert)]++ == 0) hinted_.push_back(static_cast<uint16_t>(expert));
    }
  std::ranges::stable_sort(hinted_, std::greater{}, [&](uint16_t e) { return num_tokens_e_[e]; });
}

Result<void> Dispatcher::check_covered() {
  if (placement_.is_covered()) return {};
  const auto lost = std::ranges::find_if(workers_, [](const Worker& w) { return !w.peer; });
  const std::string who = lost == workers_.end() ? "" : fmt::format("worker={}: not connected; ", lost->name);
  return Status{Code::peer_lost, who + placement_.uncovered()};
}

Result<void> Dispatcher::send(DispatchRound& round, const EncodedRows& rows) {
  outgoing_.clear();
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].peer) continue;
    const auto worker = static_cast<int32_t>(i);
    const Result<size_t> bytes = pack(round, worker, rows);
    if (bytes.has_error()) {
      if (rows.tails) rows.tails->finish();
      exchange_.post(outgoing_);  // gives the acquired regions back; the answers will be stale
      return bytes.error();
    }
    outgoing_.push_back({*workers_[i].peer, *bytes});
    if (options_.routing) options_.routing->sent(round, worker, *bytes);
    round.share(worker).awaited = true;
    ++round.num_awaited;
    if (*bytes < kLargeFrameBytes || rows.tails) continue;
    exchange_.post(outgoing_);
    outgoing_.clear();
  }
  if (rows.tails) rows.tails->finish();
  exchange_.post(outgoing_);
  return {};
}

Result<size_t> Dispatcher::pack(const DispatchRound& round, int32_t worker_idx, const EncodedRows& rows) {
  const Worker& worker = workers_[static_cast<size_t>(worker_idx)];
  const DispatchRound::Share& share = round.share_w[static_cast<size_t>(worker_idx)];
  const RowCodecs codecs = options_.codecs_w[static_cast<size_t>(worker_idx)];
  const FrameShape shape{.num_rows = static_cast<uint32_t>(share.row_token.size()),
                         .num_pairs = static_cast<uint32_t>(share.pairs.size()),
                         .hidden = static_cast<uint32_t>(options_.hidden),
                         .codec = codecs.dispatch};
  const FrameFields fields{.generation = worker.generation,
                           .step_id = round.step_id,
                           .placement_version = placement_.version(worker_idx),
                           .layer = static_cast<uint16_t>(round.layer),
                           .micro_batch = static_cast<uint16_t>(round.micro_batch),
                           .combine = round.combine,
                           .answer_codec = codecs.combine};
  const FrameLayout layout = frame_layout(shape);
  const bool has_tail = rows.tails && shape.num_rows > 0;
  const auto region = exchange_.acquire(*worker.peer, has_tail ? layout.rows_offset : layout.total_bytes);
  if (region.has_error()) {
    // A loss shows here first, before a poll reports it.
    if (region.error().code == Code::peer_lost) on_peer_lost(*worker.peer, region.error());
    return Status{region.error().code, fmt::format("worker={}: {}", worker.name, region.error().message)};
  }
  std::byte* tail = nullptr;
  if (has_tail) {
    const auto acquired = exchange_.acquire_tail(*worker.peer, layout.tail_bytes());
    if (acquired.has_error()) {
      const Status why{acquired.error().code,
                       fmt::format("worker={}: {}", worker.name, acquired.error().message)};
      lose(worker_idx, why);  // its region stays acquired
      return why;
    }
    tail = *acquired;
  }
  counters_.bytes_sent += static_cast<int64_t>(layout.total_bytes);
  const FrameSections sections = begin_dispatch(fields, shape, *region, tail);
  std::copy(share.pairs.begin(), share.pairs.end(), sections.pairs.begin());
  const auto hidden = static_cast<size_t>(options_.hidden);
  const bool encoded = rows.codec != Codec::f32;
  GH_CHECK(!encoded || rows.codec == codecs.dispatch);
  if (rows.tails) {
    GH_CHECK(rows.codec == codecs.dispatch);
    if (has_tail) rows.tails->write(share.row_token, tail);
    return sections.total_bytes;
  }
  parallel_rows(*options_.team, shape.num_rows, options_.hidden, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const std::byte* row = rows.row(share.row_token[i]);
      if (encoded)
        std::memcpy(sections.row(i), row, sections.row_bytes);
      else
        encode_row(codecs.dispatch, {reinterpret_cast<const float*>(row), hidden}, sections.row(i));
    }
  });
  return sections.total_bytes;
}

Result<void> Dispatcher::combine(int micro_batch, View2<float> y_th) {
  GH_ASSIGN(const Answers answers, this->answers(micro_batch));
  GH_CHECK(y_th.rows == answers.row_tk.rows);
  const DispatchRound& round = round_m_[static_cast<size_t>(micro_batch)];
  const View2<const float> weight_tk =
      answers.weighted ? View2<const float>{one_tk_.data(), y_th.rows, answers.row_tk.cols} : round.weight_tk;
  combine_encoded_cpu(*options_.team, answers.row_tk, weight_tk, y_th);
  close(micro_batch);
  return {};
}

Result<Answers> Dispatcher::answers(int micro_batch) {
  DispatchRound& round = round_m_[static_cast<size_t>(micro_batch)];
  GH_CHECK(round.open);
  const Result<void> answered = wait_for_answers(round);
  if (answered.has_error()) return abandon_step(answered.error());
  round.list_answers(std::span(row_tk_).first(static_cast<size_t>(round.num_pairs())));
  return Answers{{row_tk_.data(), round.expert_tk.rows, round.expert_tk.cols},
                 round.combine == Combine::reduced,
                 std::ranges::any_of(round.share_w, &DispatchRound::Share::on_device)};
}

Result<void> Dispatcher::wait_for_answers(DispatchRound& round) {
  const auto deadline = Clock::now() + options_.deadline;
  while (round.num_awaited > 0 && !failure_) {
    const bool local_work = options_.pump_local_workers && options_.pump_local_workers();
    if (exchange_.poll(*this) > 0 || local_work) continue;
    if (options_.while_waiting) options_.while_waiting();
    if (failure_) break;
    if (Clock::now() > deadline)
      give_up_late_workers(round);
    else
      exchange_.wait(kWaitSlice);
  }
  if (failure_) return *failure_;
  return {};
}

// Those that have not answered are detached, so that their late frames find no link.
void Dispatcher::give_up_late_workers(const DispatchRound& round) {
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!round.share_w[i].awaited) continue;
    lose(static_cast<int32_t>(i),
         {Code::deadline_exceeded,
          fmt::format("worker={}: no answer for layer {} within {} (transport.deadline)", workers_[i].name,
                      round.layer, format_duration(options_.deadline))});
  }
}

// The first reason counts.
void Dispatcher::fail(Status status) {
  if (!failure_) failure_ = std::move(status);
}

// No answer to any of the step's rounds counts from here on.
Status Dispatcher::abandon_step(Status why) {
  for (DispatchRound& round : round_m_) round.close();
  failure_.reset();
  return why;
}

void Dispatcher::poll() {
  while (exchange_.poll(*this) > 0) {
  }
}

std::vector<LostWorker> Dispatcher::take_lost() { return std::exchange(lost_, {}); }

std::optional<int32_t> Dispatcher::find(PeerId peer) const {
  for (size_t i = 0; i < workers_.size(); ++i)
    if (workers_[i].peer == peer) return static_cast<int32_t>(i);
  return std::nullopt;
}

bool Dispatcher::is_awaited(int32_t worker) {
  return std::any_of(round_m_.begin(), round_m_.end(),
                     [&](DispatchRound& round) { return round.share(worker).awaited; });
}

// The round that a frame answers.
DispatchRound* Dispatcher::awaited_round(int32_t worker, const FrameHeader& header) {
  DispatchRound& round = round_m_[header.micro_batch];
  const bool current = round.share(worker).awaited && header.step_id == round.step_id &&
                       header.layer == round.layer &&
                       header.generation == workers_[static_cast<size_t>(worker)].generation;
  return current ? &round : nullptr;
}

void Dispatcher::on_frame(PeerId peer, std::span<const std::byte> bytes) {
  const std::optional<int32_t> worker = find(peer);
  if (!worker) return;
  counters_.bytes_received += static_cast<int64_t>(bytes.size() + exchange_.tail().size());
  const Result<FrameHeader> header = decode_header({bytes, exchange_.tail()});
  if (header.has_error()) return drop_link(*worker, header.error());
  if (DispatchRound* round = awaited_round(*worker, *header))
    take_answer(*round, *worker, *header, bytes);
  else
    ++counters_.stale_frames;
}

void Dispatcher::take_answer(DispatchRound& round, int32_t worker, const FrameHeader& header,
                             std::span<const std::byte> bytes) {
  DispatchRound::Share& share = round.share(worker);
  if (static_cast<FrameKind>(header.kind) == FrameKind::failure) {
    const Result<FailureView> failure = decode_failure(bytes);
    if (failure.has_error()) return drop_link(worker, failure.error());
    const Status why{
        failure->why.code,
        fmt::format("worker={}: {}", workers_[static_cast<size_t>(worker)].name, failure->why.message)};
    // It does not hold what it announced to hold: a new link tells what it does.
    if (why.code == Code::not_found) return lose(worker, why);
    fail(why);
  } else {
    const Result<CombineView> answer = decode_combine({bytes, exchange_.tail()});
    if (answer.has_error()) return drop_link(worker, answer.error());
    const Result<void> fits = check_answer(round, worker, answer->header);
    if (fits.has_error()) return drop_link(worker, fits.error());
    share.held = exchange_.hold();
    share.codec = codec_of(answer->header);
    share.rows = answer->rows.data();
    share.row_bytes = answer->row_bytes;
    share.on_device = answer->rows_on_device;
    if (options_.routing) options_.routing->answered(round, worker, bytes.size() + exchange_.tail().size());
  }
  share.awaited = false;
  --round.num_awaited;
}

// Whether a combine is what its dispatch asked for.
Result<void> Dispatcher::check_answer(const DispatchRound& round, int32_t worker,
                                      const FrameHeader& answer) const {
  const auto num_answers = static_cast<size_t>(round.share_w[static_cast<size_t>(worker)].num_answers);
  if (answer.num_rows != num_answers || answer.hidden != options_.hidden)
    return Status{Code::data_loss, fmt::format("answered {} rows of {} for {} of {}", answer.num_rows,
                                               answer.hidden, num_answers, options_.hidden)};
  const Codec codec = options_.codecs_w[static_cast<size_t>(worker)].combine;
  if (codec_of(answer) != codec || combine_of(answer) != round.combine)
    return Status{Code::data_loss,
                  fmt::format("answered codec {} combine {} where {} and {} were asked for", answer.codec,
                              answer.combine, static_cast<int>(codec), static_cast<int>(round.combine))};
  return {};
}

// A frame that cannot be right ends this link, and this link only.
void Dispatcher::drop_link(int32_t worker, const Status& why) {
  lose(worker, {why.code, fmt::format("worker={}: bad frame: {}", workers_[static_cast<size_t>(worker)].name,
                                      why.message)});
}

void Dispatcher::on_peer_lost(PeerId peer, const Status& why) {
  const std::optional<int32_t> worker = find(peer);
  if (!worker) return;
  lose(*worker, {Code::peer_lost,
                 fmt::format("worker={}: {}", workers_[static_cast<size_t>(*worker)].name, why.message)});
}

void Dispatcher::lose(int32_t worker, const Status& named) {
  if (is_awaited(worker)) fail(named);
  detach(worker);
  lost_.push_back({worker, workers_[static_cast<size_t>(worker)].generation, named});
}

}  // namespace guildhall
