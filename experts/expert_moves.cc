#include "experts/expert_moves.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>

#include "base/clock.h"
#include "base/log.h"
#include "base/units.h"
#include "experts/expert_mover.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{200};

// A \ B.
ExpertsOfLayer without(const ExpertsOfLayer& a_l, const ExpertsOfLayer& b_l) {
  ExpertsOfLayer rest_l(a_l.size());
  for (size_t layer = 0; layer < a_l.size(); ++layer)
    std::ranges::set_difference(a_l[layer], b_l[layer], std::back_inserter(rest_l[layer]));
  return rest_l;
}

ExpertsOfLayer united(const ExpertsOfLayer& a_l, const ExpertsOfLayer& b_l) {
  ExpertsOfLayer all_l(a_l.size());
  for (size_t layer = 0; layer < a_l.size(); ++layer)
    std::ranges::set_union(a_l[layer], b_l[layer], std::back_inserter(all_l[layer]));
  return all_l;
}

int64_t bytes_of(const std::vector<PlacedExpert>& experts) {
  int64_t bytes = 0;
  for (const PlacedExpert& e : experts) bytes += e.weights->memory.bytes();
  return bytes;
}

}  // namespace

struct ExpertMoves::Impl : std::enable_shared_from_this<Impl> {
  struct Move {
    LinkPtr router;  // null: it is gone
    uint64_t id = 0;
    Clock::time_point begun;
  };
  struct Addition : Move {
    ExpertsOfLayer missing_l;
    std::string peer_address;
    int64_t bytes_per_s = 0;
  };
  struct Drop : Move {
    ExpertsOfLayer retiring_l;
    uint32_t version = 0;  // of the first announcement without them
  };

  Impl(boost::asio::io_context& io, ExpertLoaderOptions loader, PeerLinkOptions peers, const ModelSpec& spec,
       Worker& worker, ExpertMovesHooks hooks)
      : io(io),
        loader(std::move(loader)),
        peers(std::move(peers)),
        spec(spec),
        worker(worker),
        hooks(std::move(hooks)),
        holdings(spec),
        timer(io) {}

  // ---- additions

  void add(const LinkPtr& router, const control::AddExperts& message) {
    for (const Addition& known : additions)
      if (known.router == router && known.id == message.move_id()) return tell(known, running());
    const Move move{router, message.move_id(), Clock::now()};
    const Result<ExpertsOfLayer> experts_l = accept(message.layers(), additions.size());
    if (experts_l.has_error()) return fail(move, experts_l.error());
    const ExpertsOfLayer missing_l = holdings.among(*experts_l, ExpertHoldings::State::absent);
    if (const Result<void> fits = check_room(without(missing_l, being_added())); fits.has_error())
      return fail(move, fits.error());
    take_back(*experts_l);
    Addition addition{move, missing_l, message.peer_address(),
                      static_cast<int64_t>(std::min<uint64_t>(message.bytes_per_s(), INT64_MAX))};
    tell(addition, running());
    additions.push_back(std::move(addition));
    begin_next();
  }

  // Begins the first addition, unless one is under way.
  void begin_next() {
    if (is_busy || additions.empty()) return;
    is_busy = true;
    Addition& addition = additions.front();
    addition.begun = Clock::now();
    addition.missing_l = holdings.among(addition.missing_l, ExpertHoldings::State::absent);
    if (count_of(addition.missing_l) == 0) return end_addition(done(0));
    if (offloads())  // they are where the others are: brought in when they are asked for
      return worker.hold_experts(addition.missing_l, on_io([](Impl& self) { self.on_added(0); }));
    log_info("experts_coming", "experts={} from=\"{}\"", count_of(addition.missing_l),
             addition.peer_address.empty() ? "checkpoint" : addition.peer_address);
    report_progress();
    if (addition.peer_address.empty()) return bring(nullptr);
    peer = std::make_unique<PeerLink>(
        io, peers, spec, worker, addition.peer_address,
        [weak = weak_from_this()](const Result<std::shared_ptr<WeightFetch>>& source) {
          const auto self = weak.lock();
          if (!self) return;
          if (source.has_error())
            log_warn("peer_unreachable", "{}: experts are taken from the checkpoint",
                     to_string(source.error()));
          self->bring(source.has_error() ? nullptr : *source);
        });
  }

  void bring(std::shared_ptr<WeightFetch> source) {
    const Addition& addition = additions.front();
    mover = std::make_unique<ExpertMover>(
        loader, spec, ExpertMover::Task{addition.missing_l, addition.bytes_per_s, std::move(source)},
        [weak = weak_from_this(), &io = io](Result<std::vector<PlacedExpert>> brought) {
          post(io, weak, [brought = std::move(brought)](Impl& self) { self.on_brought(brought); });
        });
  }

  void on_brought(const Result<std::vector<PlacedExpert>>& brought) {
    if (brought.has_error()) return end_addition(failed(brought.error()));
    worker.add_experts(*brought, on_io([bytes = bytes_of(*brought)](Impl& self) { self.on_added(bytes); }));
  }

  void on_added(int64_t bytes) {
    const Addition& addition = additions.front();
    holdings.set(addition.missing_l, ExpertHoldings::State::held);
    resident_bytes += bytes;
    log_info("experts_added", "experts={} size=\"{}\" seconds={:.2f}", count_of(addition.missing_l),
             format_bytes(bytes), std::chrono::duration<double>(Clock::now() - addition.begun).count());
    announce();
    end_addition(done(bytes));
  }

  void end_addition(const control::MoveStatus& status) {
    const Addition addition = std::move(additions.front());
    additions.pop_front();
    timer.cancel();
    mover.reset();
    peer.reset();
    is_busy = false;
    if (status.state() == control::MoveStatus::FAILED)
      log_warn("move_failed", "reason=\"{}\"", status.error());
    tell(addition, status);
    post(io, weak_from_this(), [](Impl& self) { self.begin_next(); });
  }

  void report_progress() {
    if (!is_busy) return;
    control::MoveStatus status = running();
    status.set_bytes_done(mover ? mover->bytes_done() : 0);
    tell(additions.front(), status);
    timer.expires_after(kProgressInterval);
    timer.async_wait([weak = weak_from_this()](const boost::system::error_code& cancelled) {
      if (const auto self = weak.lock(); self && !cancelled) self->report_progress();
    });
  }

  ExpertsOfLayer being_added() const {
    ExpertsOfLayer all_l(static_cast<size_t>(spec.num_layers));
    for (const Addition& addition : additions) all_l = united(all_l, addition.missing_l);
    return all_l;
  }

  // For these, beside all that is here or has been promised room.
  Result<void> check_room(const ExpertsOfLayer& more_l) const {
    const int64_t each = expert_bytes(spec), num_more = count_of(more_l);
    if (num_more == 0 || offloads()) return {};
    const ExpertsOfLayer promised_l = holdings.among(being_added(), ExpertHoldings::State::absent);
    const int64_t promised = count_of(promised_l);
    const int64_t needed = resident_bytes + (promised + num_more) * each;
    if (loader.memory_limit > 0 && needed > loader.memory_limit)
      return Status{
          Code::resource_exhausted,
          fmt::format(
              "worker={}: {} more experts of {} take {}, beside {} of the {} here and {} of the {} on "
              "their way: {} of experts.workers.memory's {}; drop some first, or give this worker more",
              peers.worker_name, num_more, format_bytes(each), format_bytes(num_more * each),
              format_bytes(resident_bytes), holdings.num_resident(), format_bytes(promised * each), promised,
              format_bytes(needed), format_bytes(loader.memory_limit))};
    return check_device_memory(spec, united(promised_l, more_l), *loader.device, loader.memory_margin);
  }

  // ---- drops

  void drop(const LinkPtr& router, const control::DropExperts& message) {
    for (const Drop& known : drops)
      if (known.router == router && known.id == message.move_id()) return tell(known, running());
    const Move move{router, message.move_id(), Clock::now()};
    const Result<ExpertsOfLayer> experts_l = accept(message.layers(), drops.size());
    if (experts_l.has_error()) return fail(move, experts_l.error());
    const ExpertsOfLayer coming_l = being_added();
    if (count_of(without(*experts_l, coming_l)) < count_of(*experts_l))
      return fail(move, {Code::unavailable,
                         fmt::format("worker={}: experts that are being added cannot be dropped: wait for "
                                     "that move's end",
                                     peers.worker_name)});
    const ExpertsOfLayer leaving_l = holdings.among(*experts_l, ExpertHoldings::State::held);
    holdings.set(leaving_l, ExpertHoldings::State::retiring);
    if (count_of(leaving_l) > 0) announce();
    Drop drop{move, holdings.among(*experts_l, ExpertHoldings::State::retiring), holdings.version()};
    tell(drop, running());
    drops.push_back(std::move(drop));
    check_seen();
  }

  void check_seen() {
    const uint32_t seen = hooks.seen_by_all();
    std::erase_if(drops, [&](const Drop& drop) {
      const bool over = seen >= drop.version;
      if (over) release(drop);
      return over;
    });
  }

  // Nobody asks for them any more. What another drop has freed, or is freeing, is not counted twice.
  void release(const Drop& drop) {
    const ExpertsOfLayer leaving_l = holdings.among(drop.retiring_l, ExpertHoldings::State::retiring);
    holdings.set(leaving_l, ExpertHoldings::State::absent);
    auto removed = std::make_shared<std::vector<PlacedExpert>>();
    const auto on_removed =
        on_io([drop = Move(drop), num_leaving = count_of(leaving_l), removed](Impl& self) {
          const int64_t bytes = bytes_of(*removed);
          log_info("experts_dropped", "experts={} size=\"{}\"", num_leaving, format_bytes(bytes));
          removed->clear();
          self.resident_bytes -= bytes;
          self.hooks.changed(false);
          self.tell(drop, done(bytes));
        });
    worker.remove_experts(leaving_l, [removed, on_removed](std::vector<PlacedExpert> experts) {
      *removed = std::move(experts);
      on_removed();
    });
  }

  // Drops of these that are not carried out yet.
  void take_back(const ExpertsOfLayer& experts_l) {
    const ExpertsOfLayer kept_l = holdings.among(experts_l, ExpertHoldings::State::retiring);
    if (count_of(kept_l) == 0) return;
    holdings.set(kept_l, ExpertHoldings::State::held);
    std::erase_if(drops, [&](Drop& drop) {
      const bool had_some = count_of(drop.retiring_l) > 0;
      drop.retiring_l = without(drop.retiring_l, kept_l);
      const bool over = had_some && count_of(drop.retiring_l) == 0;
      if (over) fail(drop, {Code::cancelled, "its experts were added again before they were freed"});
      return over;
    });
    announce();
  }

  // ---- both

  Result<ExpertsOfLayer> accept(const google::protobuf::RepeatedPtrField<control::LayerExperts>& layers,
                                size_t num_waiting) const {
    const std::string who = "worker=" + peers.worker_name;
    if (!is_started)
      return Status{Code::unavailable, who + ": nothing is loaded here yet: move experts once it is ready"};
    if (num_waiting >= kMaxMoves)
      return Status{Code::resource_exhausted, fmt::format("{}: {} moves wait here already", who, kMaxMoves)};
    return read_experts(layers, spec, who + ": move");
  }

  void forget(const LinkPtr& router) {
    for (Drop& drop : drops)
      if (drop.router == router) drop.router.reset();
    const auto waiting = additions.begin() + (is_busy ? 1 : 0);
    additions.erase(
        std::remove_if(waiting, additions.end(), [&](const Addition& a) { return a.router == router; }),
        additions.end());
    if (is_busy && additions.front().router == router) additions.front().router.reset();
    check_seen();
  }

  bool offloads() const { return loader.offload != OffloadMode::none; }

  void announce() {
    holdings.next_version();
    hooks.changed(true);
  }

  static control::MoveStatus running() {
    control::MoveStatus status;
    status.set_state(control::MoveStatus::RUNNING);
    return status;
  }
  static control::MoveStatus done(int64_t bytes) {
    control::MoveStatus status;
    status.set_state(control::MoveStatus::DONE);
    status.set_bytes_done(bytes);
    return status;
  }
  static control::MoveStatus failed(const Status& why) {
    control::MoveStatus status;
    status.set_state(control::MoveStatus::FAILED);
    status.set_error(why.message);
    return status;
  }
  void fail(const Move& move, const Status& why) const { tell(move, failed(why)); }
  void tell(const Move& move, control::MoveStatus status) const {
    if (!move.router) return;
    status.set_move_id(move.id);
    status.set_duration_us(static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - move.begun).count()));
    hooks.tell(move.router, status);
  }

  // On the io thread, unless this has ended by then.
  static void post(boost::asio::io_context& io, const std::weak_ptr<Impl>& weak,
                   std::function<void(Impl&)> action) {
    boost::asio::post(io, [weak, action = std::move(action)] {
      if (const auto self = weak.lock(); self && !self->is_over) action(*self);
    });
  }

  // The same, for the serve thread to call. Weak: the worker may outlive the io_context.
  std::function<void()> on_io(std::function<void(Impl&)> action) {
    return [weak = weak_from_this(), action = std::move(action)] {
      if (const auto self = weak.lock()) post(self->io, weak, action);
    };
  }

  boost::asio::io_context& io;
  const ExpertLoaderOptions loader;
  const PeerLinkOptions peers;
  const ModelSpec& spec;
  Worker& worker;
  const ExpertMovesHooks hooks;
  bool is_started = false, is_over = false;
  ExpertHoldings holdings;
  int64_t resident_bytes = 0;
  std::deque<Addition> additions;  // the first one is carried out when is_busy
  bool is_busy = false;
  std::vector<Drop> drops;
  std::unique_ptr<PeerLink> peer;      // of the addition under way
  std::unique_ptr<ExpertMover> mover;  // likewise
  boost::asio::steady_timer timer;
};

ExpertMoves::ExpertMoves(boost::asio::io_context& io, ExpertLoaderOptions loader, PeerLinkOptions peers,
                         const ModelSpec& spec, Worker& worker, ExpertMovesHooks hooks)
    : impl_(std::make_shared<Impl>(io, std::move(loader), std::move(peers), spec, worker, std::move(hooks))) {
}

ExpertMoves::~ExpertMoves() {
  impl_->is_over = true;
  impl_->timer.cancel();
  impl_->mover.reset();
  impl_->peer.reset();
  impl_->additions.clear();
  impl_->drops.clear();
}

void ExpertMoves::start(const ExpertsOfLayer& experts_l, int64_t bytes) {
  impl_->is_started = true;
  impl_->holdings.set(experts_l, ExpertHoldings::State::held);
  impl_->resident_bytes = bytes;
  impl_->announce();
}

void ExpertMoves::add(const LinkPtr& router, const control::AddExperts& message) {
  impl_->add(router, message);
}
void ExpertMoves::drop(const LinkPtr& router, const control::DropExperts& message) {
  impl_->drop(router, message);
}
void ExpertMoves::check_seen() { impl_->check_seen(); }
void ExpertMoves::forget(const LinkPtr& router) { impl_->forget(router); }
const ExpertHoldings& ExpertMoves::holdings() const { return impl_->holdings; }
int64_t ExpertMoves::resident_bytes() const { return impl_->resident_bytes; }

}  // namespace guildhall
