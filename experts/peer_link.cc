#include "experts/peer_link.h"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "base/clock.h"
#include "model/fingerprint.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "transport/control/control_client.h"

namespace guildhall {

struct PeerLink::Impl : std::enable_shared_from_this<Impl> {
  Impl(boost::asio::io_context& io, const PeerLinkOptions& options, const ModelSpec& spec, Worker& worker,
       Opened opened)
      : io(io), options(options), spec(spec), worker(worker), opened(std::move(opened)), client(io) {}

  void dial(const std::string& address) {
    DialOptions dial{.name = address, .address = address, .timeout = options.deadline, .retry = false};
    dial.link.heartbeat = options.heartbeat;
    dial.link.handshake_timeout = options.deadline;
    const std::weak_ptr<Impl> weak = weak_from_this();
    LinkHandlers handlers;
    handlers.on_message = [](const LinkPtr& link, const control::Envelope& message) {
      if (message.has_error()) link->close(read_error(message.error()));
    };
    handlers.on_closed = [weak](const LinkPtr&, const Status& why) {
      if (const auto self = weak.lock(); self && self->fetch) self->fetch->end(why);
    };
    client.dial(dial, hello(), std::move(handlers), [weak](const Result<DialedLink>& dialed) {
      if (const auto self = weak.lock()) self->on_dialed(dialed);
    });
  }

  control::Envelope hello() const {
    control::Envelope envelope;
    control::Hello& hello = *envelope.mutable_hello();
    hello.set_protocol_version(kControlVersion);
    hello.set_software_version(GUILDHALL_VERSION);
    hello.set_router_name(options.worker_name);
    hello.set_from_worker(true);
    hello.set_exchange_address(options.exchange_address);
    hello.set_exchange_kind(options.exchange_kind);
    hello.set_model_type(spec.model_type);
    hello.set_model_fingerprint(fingerprint(spec));
    hello.set_generation(generation);
    return envelope;
  }

  void on_dialed(const Result<DialedLink>& dialed) {
    if (dialed.has_error()) return opened(dialed.error());
    link = dialed->link;
    if (!dialed->reply->has_hello_reply())
      return opened(Status{Code::data_loss, link->peer() + ": its first reply is not a hello"});
    const control::HelloReply& reply = dialed->reply->hello_reply();
    if (reply.exchange_address() == options.exchange_address)
      return opened(Status{Code::invalid_argument, link->peer() + " is this worker itself"});
    // Weak, as the worker may outlive the io_context.
    const std::weak_ptr<Impl> weak = weak_from_this();
    fetch = std::make_shared<WeightFetch>(
        spec, WeightFetchOptions{.peer = reply.worker_name(), .deadline = options.deadline},
        [&worker = worker, generation = generation](uint64_t step_id, const WeightsRequest& request) {
          worker.use_weight_links([=](WeightLinks& links) { links.ask(generation, step_id, request); });
        });
    const WorkerPeer peer{reply.worker_name(), reply.exchange_address(), generation};
    const SourceHello hello{hello_sent_ns, reply.is_data_link_new()};
    worker.use_weight_links([weak, peer, hello, fetch = fetch](WeightLinks& links) {
      const Result<void> attached = links.attach_source(peer, hello, fetch);
      const auto self = weak.lock();
      if (!self) return;
      boost::asio::post(self->io, [weak, attached] {
        if (const auto self = weak.lock()) self->on_attached(attached);
      });
    });
  }

  void on_attached(const Result<void>& attached) {
    if (attached.has_error()) return opened(attached.error());
    opened(fetch);
  }

  void close() {
    if (fetch) fetch->end({Code::cancelled, "the link to the peer was closed"});
    worker.use_weight_links([generation = generation](WeightLinks& links) { links.detach(generation); });
    if (link) link->close({Code::cancelled, "experts were fetched"});
    link.reset();
  }

  boost::asio::io_context& io;
  const PeerLinkOptions options;
  const ModelSpec& spec;
  Worker& worker;
  const Opened opened;
  const int64_t hello_sent_ns = now_ns();  // or a little later
  const uint64_t generation = static_cast<uint64_t>(hello_sent_ns);
  ControlClient client;
  LinkPtr link;
  std::shared_ptr<WeightFetch> fetch;
};

PeerLink::PeerLink(boost::asio::io_context& io, const PeerLinkOptions& options, const ModelSpec& spec,
                   Worker& worker, const std::string& address, Opened opened)
    : impl_(std::make_shared<Impl>(io, options, spec, worker, std::move(opened))) {
  impl_->dial(address);
}

PeerLink::~PeerLink() { impl_->close(); }

}  // namespace guildhall
