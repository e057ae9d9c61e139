#include "router/cluster.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <mutex>

#include "base/clock.h"
#include "base/log.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "transport/control/control_client.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kRedialDelay{200};

std::shared_ptr<const ClusterOptions> share(ClusterOptions options) {
  return std::make_shared<const ClusterOptions>(std::move(options));
}

control::Envelope placement_message(const Placement& placement, int32_t worker) {
  control::Envelope envelope;
  control::Placement& message = *envelope.mutable_placement();
  message.set_version(placement.version);
  const auto experts_of_layer = placement.experts_of(worker);
  for (size_t layer = 0; layer < experts_of_layer.size(); ++layer) {
    if (experts_of_layer[layer].empty()) continue;
    control::LayerExperts& entry = *message.add_layers();
    entry.set_layer(static_cast<uint32_t>(layer));
    for (const int32_t expert : experts_of_layer[layer]) entry.add_experts(static_cast<uint32_t>(expert));
  }
  return envelope;
}

}  // namespace

// One worker's link, from dialling to ready and back. Lives on the io thread; `mutex_` guards what status()
// reads.
class Cluster::Peer : public std::enable_shared_from_this<Cluster::Peer> {
 public:
  Peer(boost::asio::io_context& io, std::shared_ptr<const ClusterOptions> options, WorkerAddress address,
       int32_t worker, Placement placement, ClusterEvents events)
      : io_(io),
        options_(std::move(options)),
        address_(std::move(address)),
        worker_(worker),
        placement_(std::move(placement)),
        events_(std::move(events)),
        client_(io),
        redial_(io) {
    status_.name = address_.name;
    status_.address = address_.address;
    status_.state = "connecting";
  }

  void dial() {
    if (closed_) return;
    generation_ = static_cast<uint64_t>(now_ns());
    set_state("connecting");
    DialOptions dial{
        .name = address_.name, .address = address_.address, .timeout = options_->startup_timeout};
    dial.link.heartbeat = options_->heartbeat;
    // As patient as with a silent peer: another dial would only add to what a slow one has to do.
    dial.link.handshake_timeout =
        std::max(dial.link.handshake_timeout, kSilentHeartbeats * dial.link.heartbeat);
    const std::weak_ptr<Peer> weak = weak_from_this();
    LinkHandlers handlers;
    handlers.on_message = [weak](const LinkPtr&, const control::Envelope& message) {
      if (const auto self = weak.lock()) self->on_message(message);
    };
    handlers.on_closed = [weak](const LinkPtr& link, const Status& why) {
      if (const auto self = weak.lock()) self->on_closed(link, why);
    };
    client_.dial(dial, hello(), std::move(handlers), [weak](const Result<DialedLink>& dialed) {
      if (const auto self = weak.lock()) self->on_dialed(dialed);
    });
  }

  void drop(uint64_t generation, const Status& why) {
    boost::asio::post(io_, [self = shared_from_this(), generation, why] {
      if (self->link_ && self->generation_ == generation) self->link_->close(why);
    });
  }

  void close() {
    boost::asio::post(io_, [self = shared_from_this()] {
      self->closed_ = true;
      self->redial_.cancel();
      if (self->link_) self->link_->close({Code::cancelled, "the router is shutting down"});
    });
  }

  void set_transport(std::string description) {
    std::lock_guard lock(mutex_);
    status_.transport = std::move(description);
  }

  WorkerStatus status() const {
    std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  control::Envelope hello() const {
    control::Envelope envelope;
    control::Hello& hello = *envelope.mutable_hello();
    hello.set_protocol_version(kControlVersion);
    hello.set_software_version(GUILDHALL_VERSION);
    hello.set_router_name(options_->router_name);
    const std::vector<std::string>& replicas = options_->exchange_addresses;
    hello.set_exchange_address(replicas.front());
    for (size_t i = 1; i < replicas.size(); ++i) hello.add_more_exchange_addresses(replicas[i]);
    hello.set_exchange_kind(options_->exchange_kind);
    hello.set_model_type(options_->model_type);
    hello.set_model_fingerprint(options_->model_fingerprint);
    hello.set_dispatch_codec(static_cast<uint32_t>(address_.codecs.dispatch));
    hello.set_combine_codec(static_cast<uint32_t>(address_.codecs.combine));
    hello.set_combine(static_cast<uint32_t>(options_->combine));
    hello.set_isa(options_->isa);
    hello.set_generation(generation_);
    return envelope;
  }

  void on_dialed(const Result<DialedLink>& dialed) {
    if (closed_) return;
    if (dialed.has_error()) return on_dial_failed(dialed.error());
    if (!dialed->reply->has_hello_reply()) {
      const Status why{Code::data_loss, "worker=" + address_.name + ": its first reply is not a hello"};
      dialed->link->close(why);
      return on_dial_failed(why);
    }
    link_ = dialed->link;
    const control::HelloReply& reply = dialed->reply->hello_reply();
    exchange_address_ = reply.exchange_address();
    if (reply.isa() != options_->isa)
      log_warn("isa_differs", "worker={} isa={} router={}: bits may depend on which process ran a row",
               address_.name, reply.isa(), options_->isa);
    set_state("loading");
    const Result<void> sent = link_->send(placement_message(placement_, worker_));
    if (sent.has_error()) link_->close(sent.error());
  }

  void on_dial_failed(const Status& why) {
    set_error("failed", why);
    if (!was_ready_) return events_.on_startup_failed(why);
    log_warn("worker_unreachable", "{}", to_string(why));
    redial_later();
  }

  void on_message(const control::Envelope& message) {
    if (message.has_error()) return on_refused(message.error());
    if (!message.has_load_status()) return;
    const control::LoadStatus& load = message.load_status();
    {
      std::lock_guard lock(mutex_);
      status_.bytes_done = load.bytes_done();
      status_.bytes_total = load.bytes_total();
      status_.num_experts = load.num_experts();
      status_.resident_bytes = load.resident_bytes();
    }
    if (load.state() == control::LoadStatus::READY && !ready_) {
      ready_ = was_ready_ = true;
      set_state("ready");
      log_info("worker_ready", "worker={} experts={} bytes={}", address_.name, load.num_experts(),
               load.resident_bytes());
      events_.on_ready(worker_, exchange_address_, generation_);
    }
    if (load.state() == control::LoadStatus::FAILED) {
      const Status why{Code::unavailable, "worker=" + address_.name + ": " + load.error()};
      set_error("failed", why);
      if (!was_ready_) events_.on_startup_failed(why);
    }
  }

  // The worker ends this link, or lost our frames: it says why before it closes.
  void on_refused(const control::Error& error) {
    const Status why = read_error(error);
    if (link_) link_->close({why.code, "worker=" + address_.name + ": " + why.message});
  }

  void on_closed(const LinkPtr& link, const Status& why) {
    if (link != link_) return;
    link_.reset();
    ready_ = false;
    if (closed_) return;
    set_error("lost", why);
    log_warn("worker_lost", "worker={} reason=\"{}\"", address_.name, to_string(why));
    events_.on_lost(worker_, why);
    redial_later();
  }

  void redial_later() {
    redial_.expires_after(kRedialDelay);
    redial_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      if (const auto self = weak.lock(); self && !error) self->dial();
    });
  }

  void set_state(std::string state) {
    std::lock_guard lock(mutex_);
    status_.state = std::move(state);
    status_.error.clear();
  }
  void set_error(std::string state, const Status& why) {
    std::lock_guard lock(mutex_);
    status_.state = std::move(state);
    status_.error = why.message;
  }

  boost::asio::io_context& io_;
  const std::shared_ptr<const ClusterOptions> options_;
  const WorkerAddress address_;
  const int32_t worker_;
  const Placement placement_;
  const ClusterEvents events_;
  ControlClient client_;
  boost::asio::steady_timer redial_;
  LinkPtr link_;
  std::string exchange_address_;
  uint64_t generation_ = 0;
  bool ready_ = false, was_ready_ = false, closed_ = false;
  mutable std::mutex mutex_;
  WorkerStatus status_;
};

Cluster::Cluster(boost::asio::io_context& io, ClusterOptions options, std::vector<WorkerAddress> workers,
                 Placement placement, ClusterEvents events) {
  const auto shared = share(std::move(options));
  for (size_t i = 0; i < workers.size(); ++i)
    peers_.push_back(std::make_shared<Peer>(io, shared, std::move(workers[i]), static_cast<int32_t>(i),
                                            placement, events));
}

Cluster::~Cluster() = default;

void Cluster::start() {
  for (const auto& peer : peers_) peer->dial();
}

void Cluster::drop(int32_t worker, uint64_t generation, const Status& why) {
  peers_[static_cast<size_t>(worker)]->drop(generation, why);
}

void Cluster::set_transport(int32_t worker, std::string description) {
  peers_[static_cast<size_t>(worker)]->set_transport(std::move(description));
}

void Cluster::close() {
  for (const auto& peer : peers_) peer->close();
}

std::vector<WorkerStatus> Cluster::status() const {
  std::vector<WorkerStatus> all;
  for (const auto& peer : peers_) all.push_back(peer->status());
  return all;
}

}  // namespace guildhall
