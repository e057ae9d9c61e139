#include "router/worker_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>

#include "base/clock.h"
#include "base/log.h"
#include "router/control_messages.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kRedialDelay{200};

}  // namespace

WorkerLink::WorkerLink(boost::asio::io_context& io, std::shared_ptr<const ClusterOptions> options,
                       WorkerAddress address, int32_t worker, Holdings share, ClusterEvents events)
    : io_(io),
      options_(std::move(options)),
      address_(std::move(address)),
      worker_(worker),
      events_(std::move(events)),
      client_(io),
      redial_(io),
      settled_(std::move(share)) {
  status_.name = address_.name;
  status_.address = address_.address;
  status_.state = "connecting";
}

// ---- any thread ----

void WorkerLink::drop(uint64_t generation, const Status& why) {
  boost::asio::post(io_, [self = shared_from_this(), generation, why] {
    if (self->link_ && self->generation_ == generation) self->link_->close(why);
  });
}

void WorkerLink::acknowledge(uint64_t generation, uint32_t version) {
  boost::asio::post(io_, [self = shared_from_this(), generation, version] {
    if (!self->link_ || self->generation_ != generation) return;
    if (self->announced_.version == version) self->settled_ = self->announced_;
    const Result<void> sent = self->link_->send(holdings_seen_message(version));
    if (sent.has_error()) self->link_->close(sent.error());
  });
}

void WorkerLink::move(uint64_t move_id, control::Envelope message, MoveDone done) {
  boost::asio::post(
      io_, [self = shared_from_this(), move_id, message = std::move(message), done = std::move(done)] {
        const auto refuse = [&](Code code, const std::string& why) {
          done({.result = Status{code, fmt::format("{}: {}", self->who(), why)}});
        };
        if (!self->ready_) return refuse(Code::peer_lost, "it is not ready, so it can move no experts");
        if (self->moves_.size() >= kMaxMoves)
          return refuse(Code::resource_exhausted, fmt::format("{} moves are under way already", kMaxMoves));
        const Result<void> sent = self->link_->send(message);
        if (sent.has_error()) return refuse(sent.error().code, sent.error().message);
        self->moves_.emplace(move_id, done);
      });
}

void WorkerLink::close() {
  boost::asio::post(io_, [self = shared_from_this()] {
    self->closed_ = true;
    self->redial_.cancel();
    if (self->link_) self->link_->close({Code::cancelled, "the router is shutting down"});
  });
}

void WorkerLink::set_transport(std::string description) {
  std::lock_guard lock(mutex_);
  status_.transport = std::move(description);
}

WorkerStatus WorkerLink::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

WorkerHoldings WorkerLink::holdings() const {
  std::lock_guard lock(mutex_);
  return holdings_;
}

void WorkerLink::set_state(std::string state) {
  std::lock_guard lock(mutex_);
  status_.state = std::move(state);
  status_.error.clear();
}

void WorkerLink::set_error(std::string state, const Status& why) {
  std::lock_guard lock(mutex_);
  status_.state = std::move(state);
  status_.error = why.message;
}

// ---- the io thread: from dialling to ready ----

void WorkerLink::dial() {
  if (closed_) return;
  generation_ = static_cast<uint64_t>(now_ns());
  set_state("connecting");
  DialOptions dial{.name = address_.name, .address = address_.address, .timeout = options_->startup_timeout};
  dial.link.heartbeat = options_->heartbeat;
  // As patient as with a silent peer: another dial would only add to what a slow one has to do.
  dial.link.handshake_timeout =
      std::max(dial.link.handshake_timeout, kSilentHeartbeats * dial.link.heartbeat);
  const std::weak_ptr<WorkerLink> weak = weak_from_this();
  LinkHandlers handlers;
  handlers.on_message = [weak](const LinkPtr&, const control::Envelope& message) {
    if (const auto self = weak.lock()) self->on_message(message);
  };
  handlers.on_closed = [weak](const LinkPtr& link, const Status& why) {
    if (const auto self = weak.lock()) self->on_closed(link, why);
  };
  client_.dial(dial, hello_message(*options_, address_.codecs, generation_), std::move(handlers),
               [weak](const Result<DialedLink>& dialed) {
                 if (const auto self = weak.lock()) self->on_dialed(dialed);
               });
}

void WorkerLink::on_dialed(const Result<DialedLink>& dialed) {
  if (closed_) return;
  if (dialed.has_error()) return on_dial_failed(dialed.error());
  if (!dialed->reply->has_hello_reply()) {
    const Status why{Code::data_loss, who() + ": its first reply is not a hello"};
    dialed->link->close(why);
    return on_dial_failed(why);
  }
  link_ = dialed->link;
  const control::HelloReply& reply = dialed->reply->hello_reply();
  exchange_address_ = reply.exchange_address();
  offloads_ = reply.offloads();
  if (reply.isa() != options_->isa)
    log_warn("isa_differs", "worker={} isa={} router={}: bits may depend on which process ran a row",
             address_.name, reply.isa(), options_->isa);
  set_state("loading");
  const Result<void> sent = link_->send(placement_message(settled_));
  if (sent.has_error()) link_->close(sent.error());
}

void WorkerLink::on_dial_failed(const Status& why) {
  set_error("failed", why);
  if (!was_ready_) return events_.on_startup_failed(why);
  log_warn("worker_unreachable", "{}", to_string(why));
  redial_later();
}

void WorkerLink::on_message(const control::Envelope& message) {
  switch (message.body_case()) {
    case control::Envelope::kError:
      return on_refused(read_error(message.error()));
    case control::Envelope::kLoadStatus:
      return on_load_status(message.load_status());
    case control::Envelope::kHoldings:
      return on_holdings(message.holdings());
    case control::Envelope::kMoveStatus:
      return on_move_status(message.move_status());
    case control::Envelope::kWorkerLoads: {
      std::lock_guard lock(mutex_);
      holdings_.loads = read_loads(message.worker_loads());
      return;
    }
    default:
      return;  // a newer minor version's message
  }
}

void WorkerLink::on_load_status(const control::LoadStatus& load) {
  {
    std::lock_guard lock(mutex_);
    status_.bytes_done = load.bytes_done();
    status_.bytes_total = load.bytes_total();
    status_.num_experts = load.num_experts();
    status_.resident_bytes = load.resident_bytes();
  }
  if (load.state() == control::LoadStatus::READY) {
    loaded_ = true;
    become_ready();
  }
  if (load.state() == control::LoadStatus::FAILED) {
    const Status why{Code::unavailable, who() + ": " + load.error()};
    set_error("failed", why);
    if (!was_ready_) events_.on_startup_failed(why);
  }
}

void WorkerLink::on_holdings(const control::Holdings& message) {
  Result<Holdings> read = read_holdings(message, options_->experts);
  if (read.has_error()) return on_refused(read.error());
  announced_ = *std::move(read);
  announced_.offloads = offloads_;
  {
    std::lock_guard lock(mutex_);
    holdings_.version = announced_.version;
    holdings_.experts_l = announced_.experts_l;
    status_.num_experts = count_experts(announced_.experts_l);
  }
  if (!ready_) return become_ready();
  log_info("worker_holds", "worker={} version={} experts={}", address_.name, announced_.version,
           count_experts(announced_.experts_l));
  events_.on_holdings(worker_, generation_, announced_);
}

void WorkerLink::become_ready() {
  if (ready_ || !loaded_ || announced_.version == 0) return;
  ready_ = was_ready_ = true;
  {
    std::lock_guard lock(mutex_);
    status_.state = "ready";
    status_.error.clear();
    holdings_.ready = true;
  }
  log_info("worker_ready", "worker={} experts={} holdings={} bytes={}{}", address_.name,
           count_experts(announced_.experts_l), announced_.version, status().resident_bytes,
           announced_.experts_l == settled_.experts_l ? "" : ": other experts than it was asked to load");
  events_.on_ready(worker_, exchange_address_, generation_, announced_);
}

// ---- moves ----

void WorkerLink::on_move_status(const control::MoveStatus& message) {
  if (message.state() == control::MoveStatus::RUNNING) return;
  const auto move = moves_.extract(message.move_id());
  if (!move.empty()) move.mapped()(read_outcome(message, who()));
}

void WorkerLink::fail_moves(const Status& why) {
  const auto moves = std::exchange(moves_, {});
  for (const auto& [id, done] : moves)
    done({.result =
              Status{Code::peer_lost, fmt::format("{}: lost while experts moved: {}", who(), why.message)}});
}

// ---- the end of a link ----

// The worker ends this link, or lost our frames, and says why before it closes; or it says what cannot be.
void WorkerLink::on_refused(const Status& why) {
  if (link_) link_->close({why.code, fmt::format("{}: {}", who(), why.message)});
}

void WorkerLink::on_closed(const LinkPtr& link, const Status& why) {
  if (link != link_) return;
  link_.reset();
  loaded_ = ready_ = false;
  announced_ = {};
  {
    std::lock_guard lock(mutex_);
    holdings_.ready = false;
  }
  if (!closed_) {
    set_error("lost", why);
    log_warn("worker_lost", "worker={} reason=\"{}\"", address_.name, to_string(why));
    events_.on_lost(worker_, why);
    redial_later();
  }
  fail_moves(why);
}

void WorkerLink::redial_later() {
  redial_.expires_after(kRedialDelay);
  redial_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    if (const auto self = weak.lock(); self && !error) self->dial();
  });
}

}  // namespace guildhall
