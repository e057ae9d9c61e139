#include "experts/worker.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"
#include "proto/hint_codec.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kIdleWait{500};

// Rows of different routers that run as one: enough to fill the kernels, few enough that a router waits
// little longer for its answer than for its own rows. A single dispatch may have more.
constexpr uint64_t kMaxMergedRows = 4096;

}  // namespace

Worker::Worker(const ModelSpec& spec, Exchange& exchange, std::unique_ptr<Ops> ops)
    : exchange_(exchange),
      ops_(std::move(ops)),
      runner_(spec, *ops_),
      weight_links_(exchange, *ops_, runner_.experts()) {}

// ---- any thread ----

void Worker::set_store(std::shared_ptr<const ExpertStore> store, std::function<void()> done) {
  post([this, store = std::move(store), done = std::move(done)] {
    runner_.experts().set(*store);
    if (done) done();
  });
}

void Worker::set_offloaded(std::shared_ptr<ColdExperts> cold, ExpertsOfLayer experts_l,
                           std::function<void()> done) {
  post([this, cold = std::move(cold), experts_l = std::move(experts_l), done = std::move(done)] {
    runner_.offload(cold, experts_l);
    publish();
    if (done) done();
  });
}

void Worker::hold_experts(ExpertsOfLayer experts_l, std::function<void()> done) {
  post([this, experts_l = std::move(experts_l), done = std::move(done)] {
    runner_.hold(experts_l);
    done();
  });
}

void Worker::add_experts(std::vector<PlacedExpert> experts, std::function<void()> done) {
  post([this, experts = std::move(experts), done = std::move(done)] {
    runner_.experts().add(experts);
    done();
  });
}

void Worker::remove_experts(ExpertsOfLayer experts_l, std::function<void(std::vector<PlacedExpert>)> done) {
  post([this, experts_l = std::move(experts_l), done = std::move(done)] {
    std::vector<PlacedExpert> removed = runner_.remove(experts_l);
    publish();
    done(std::move(removed));
  });
}

void Worker::use_weight_links(std::function<void(WeightLinks&)> use) {
  post([this, use = std::move(use)] { use(weight_links_); });
}

void Worker::attach_router(std::string name, std::string exchange_address, uint64_t generation,
                           std::function<void(Result<void>)> done,
                           std::function<void(const Status& why)> lost) {
  post([=, this] {
    // A router that dials again may be here before its old link's end was noticed.
    detach_if([&](const Router& r) { return r.exchange_address == exchange_address; });
    const Result<PeerId> peer = exchange_.connect(name, exchange_address);
    if (peer.has_error()) return done(peer.error());
    routers_[*peer] = {name, exchange_address, generation, lost};
    log_info("router_attached", "router={} transport=\"{}\"", name, exchange_.describe(*peer));
    done({});
  });
}

void Worker::detach_router(const std::string& name, uint64_t generation) {
  post([=, this] {
    detach_if([&](const Router& r) { return r.name == name && r.generation == generation; });
  });
}

void Worker::stop() {
  stopping_ = true;
  exchange_.wake();
}

void Worker::post(std::function<void()> command) {
  {
    std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
    has_commands_.store(true, std::memory_order_release);
  }
  exchange_.wake();
}

WorkerCounters Worker::counters() const {
  std::lock_guard lock(mutex_);
  return {.frames_served = frames_served_.load(),
          .rows_served = rows_served_.load(),
          .runs = runs_.load(),
          .frames_refused = frames_refused_.load(),
          .compute_ns = compute_ns_.load(),
          .activations = activations_.load(),
          .weight_bytes = weight_bytes_.load(),
          .offload = offload_};
}

// ---- the serve thread ----

void Worker::run() {
  name_trace_thread("serve");
  while (!stopping_)
    if (!poll()) exchange_.wait(kIdleWait);
}

bool Worker::poll() {
  const bool commanded = has_commands_.load(std::memory_order_acquire) && run_commands();
  const bool heard = exchange_.poll(*this) > 0;
  const bool waited_for = !queue_.empty();
  if (waited_for) serve_round();
  runner_.advance();
  const bool gave = weight_links_.answer_one();  // one chunk: what a dispatch may have to wait for
  return heard || commanded || waited_for || gave;
}

bool Worker::run_commands() {
  std::vector<std::function<void()>> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(commands_);
    has_commands_.store(false, std::memory_order_release);
  }
  for (auto& command : commands) command();
  return !commands.empty();
}

void Worker::on_frame(PeerId peer, std::span<const std::byte> bytes) {
  const FrameBytes frame(bytes, exchange_.tail());
  const auto it = routers_.find(peer);
  if (it == routers_.end()) {
    weight_links_.on_frame(peer, frame);
    return;
  }
  const Result<FrameHeader> header = decode_header(frame);
  if (header.has_error()) return drop(peer, header.error());
  // Before what it carries is looked at: a late frame, even a bad one, says nothing about this link.
  if (header->generation != it->second.generation) {
    frames_refused_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  if (header->kind == static_cast<uint16_t>(FrameKind::hint)) return take_hint(peer, frame);
  const Result<DispatchView> dispatch = decode_dispatch(frame);
  if (dispatch.has_error()) return drop(peer, dispatch.error());
  if (queue_.has_room(peer))
    queue_.push({peer, *dispatch, exchange_.hold()});
  else
    refuse(peer, dispatch->header,
           {Code::resource_exhausted, fmt::format("{} dispatches of router {} wait here already",
                                                  DispatchQueue::kMaxPerRouter, it->second.name)});
}

void Worker::take_hint(PeerId peer, const FrameBytes& frame) {
  const Result<HintView> hint = decode_hint(frame);
  if (hint.has_error()) return drop(peer, hint.error());
  runner_.expect(hint->header.layer, hint->experts);
}

// One dispatch of every router that has one, those of one layer together.
void Worker::serve_round() {
  std::span<const WaitingDispatch> round = queue_.take_round();
  while (!round.empty()) {
    size_t n = 0;
    for (uint64_t rows = 0; n < round.size(); ++n) {
      rows += round[n].view.header.num_rows;
      const bool fits = round[n].view.header.layer == round[0].view.header.layer && rows <= kMaxMergedRows;
      if (n > 0 && !fits) break;
    }
    serve(round.first(n));
    round = round.subspan(n);
  }
  queue_.end_round();
}

void Worker::serve(std::span<const WaitingDispatch> dispatches) {
  jobs_.clear(), replies_.clear(), regions_.clear();
  int64_t num_rows = 0;
  for (const WaitingDispatch& d : dispatches) {
    const FrameHeader& header = d.view.header;
    if (const Result<void> runnable = runner_.check(d.view); runnable.has_error()) {
      refuse(d.router, header, runnable.error());
      continue;
    }
    if (!begin_answer(d)) continue;
    num_rows += header.num_rows;
    frames_served_.fetch_add(1, std::memory_order_relaxed);
    rows_served_.fetch_add(header.num_pairs, std::memory_order_relaxed);
  }
  if (jobs_.empty()) return;
  const int64_t begin = now_ns();
  {
    const FrameHeader& first = jobs_.front().dispatch->header;
    TraceSpan span("experts", {.layer = first.layer, .micro_batch = first.micro_batch, .tokens = num_rows});
    runner_.run(jobs_);
  }
  compute_ns_.fetch_add(static_cast<uint64_t>(now_ns() - begin), std::memory_order_relaxed);
  runs_.fetch_add(1, std::memory_order_relaxed);
  activations_.store(runner_.sums().activations, std::memory_order_relaxed);
  weight_bytes_.store(runner_.sums().weight_bytes, std::memory_order_relaxed);
  turn_failures();
  exchange_.post(replies_);
  publish();
}

// Answers of jobs that came to nothing become failures, in the regions they were to be in.
void Worker::turn_failures() {
  for (size_t j = 0; j < jobs_.size(); ++j) {
    const Status* why = runner_.failure(j);
    if (why == nullptr) continue;
    frames_refused_.fetch_add(1, std::memory_order_relaxed);
    replies_[j].bytes = write_failure(answer_fields(jobs_[j].dispatch->header), *why, regions_[j]);
  }
}

void Worker::publish() {
  if (!runner_.offloads()) return;
  std::lock_guard lock(mutex_);
  offload_ = runner_.resident_sums();
}

// Lists the job, and the reply that will hold what it comes to. False: there is no room for that.
bool Worker::begin_answer(const WaitingDispatch& d) {
  const auto failed = [&](const Status& why) {
    log_warn("reply_failed", "router={} reason=\"{}\"", routers_[d.router].name, to_string(why));
    return false;
  };
  const FrameShape shape = answer_shape(d.view.header);
  const FrameLayout layout = frame_layout(shape);
  // An answer that may yet become a failure has room for one, and no tail: that would be sent with it.
  const bool may_fail = runner_.offloads();
  const bool is_tail = !may_fail && !ops_->memory().is_host() && shape.num_rows > 0 &&
                       exchange_.sends_tail(d.router, layout.tail_bytes());
  const size_t bytes = is_tail ? layout.rows_offset : layout.total_bytes;
  const auto region =
      exchange_.acquire(d.router, may_fail ? std::max<size_t>(bytes, kMaxFailureFrameBytes) : bytes);
  if (region.has_error()) return failed(region.error());
  std::byte* tail = nullptr;
  if (is_tail) {
    const auto acquired = exchange_.acquire_tail(d.router, layout.tail_bytes());
    if (acquired.has_error()) {  // and the region stays taken: this link cannot go on
      failed(acquired.error());
      lose(d.router, acquired.error());
      return false;
    }
    tail = *acquired;
  }
  const FrameSections answer = begin_combine(answer_fields(d.view.header), shape, *region, tail);
  jobs_.push_back({&d.view, answer.rows, is_tail});
  replies_.push_back({d.router, answer.total_bytes});
  regions_.push_back(*region);
  return true;
}

// A well-formed dispatch that cannot be run here: the router is told why.
void Worker::refuse(PeerId peer, const FrameHeader& header, const Status& why) {
  frames_refused_.fetch_add(1, std::memory_order_relaxed);
  const auto region = exchange_.acquire(peer, kMaxFailureFrameBytes);
  if (region.has_error()) return;
  const Exchange::Outgoing reply{peer, write_failure(answer_fields(header), why, *region)};
  exchange_.post({&reply, 1});
}

void Worker::drop(PeerId peer, const Status& why) {
  log_warn("router_dropped", "router={} reason=\"bad frame: {}\"", routers_[peer].name, why.message);
  lose(peer, {why.code, fmt::format("bad frame from router {}: {}", routers_[peer].name, why.message)});
}

void Worker::on_peer_lost(PeerId peer, const Status& why) {
  if (weight_links_.on_peer_lost(peer, why)) return;
  const auto it = routers_.find(peer);
  if (it == routers_.end()) return;
  log_warn("router_lost", "router={} reason=\"{}\"", it->second.name, why.message);
  lose(peer, why);
}

void Worker::lose(PeerId peer, const Status& why) {
  const Router router = std::move(routers_.extract(peer).mapped());
  queue_.forget(peer);
  exchange_.disconnect(peer);
  if (router.lost) router.lost(why);
}

void Worker::detach_if(const std::function<bool(const Router&)>& over) {
  for (auto it = routers_.begin(); it != routers_.end();) {
    const bool match = over(it->second);
    if (match) {
      queue_.forget(it->first);
      exchange_.disconnect(it->first);
    }
    it = match ? routers_.erase(it) : std::next(it);
  }
}

}  // namespace guildhall
