#include "experts/control_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>

#include "base/log.h"
#include "base/units.h"
#include "experts/expert_loader.h"
#include "model/fingerprint.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "proto/exchange.h"
#include "transport/control/control_server.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{200};

Result<ExpertsOfLayer> read_placement(const control::Placement& message, const ModelSpec& spec) {
  ExpertsOfLayer experts(static_cast<size_t>(spec.num_layers));
  for (const control::LayerExperts& entry : message.layers()) {
    if (entry.layer() >= experts.size() || !spec.is_moe_layer[entry.layer()])
      return Status{Code::invalid_argument, fmt::format("placement: layer {} has no experts", entry.layer())};
    auto& layer = experts[entry.layer()];
    for (const uint32_t expert : entry.experts()) {
      if (expert >= spec.moe.num_experts || (!layer.empty() && static_cast<int32_t>(expert) <= layer.back()))
        return Status{
            Code::invalid_argument,
            fmt::format("placement: layer {}: expert {} is out of order or range", entry.layer(), expert)};
      layer.push_back(static_cast<int32_t>(expert));
    }
  }
  return experts;
}

}  // namespace

struct ControlService::Impl : std::enable_shared_from_this<Impl> {
  struct Router {
    std::string name;
    std::vector<std::string> replicas;  // the worker's peers on the data plane
    size_t num_attached = 0;            // of them
    uint64_t generation = 0;
    bool placed = false;  // it sent a placement: it hears of loading
  };

  Impl(boost::asio::io_context& io, ControlServiceOptions options, const ModelSpec& spec, Worker& worker,
       std::function<void()> on_drain)
      : io(io),
        options(std::move(options)),
        spec(spec),
        worker(worker),
        on_drain(std::move(on_drain)),
        timer(io) {}

  Result<void> listen() {
    ServerOptions server_options{.name = "worker=" + options.worker_name};
    server_options.link.heartbeat = options.heartbeat;
    server_options.link.handshake_timeout =
        std::max(server_options.link.handshake_timeout, kSilentHeartbeats * options.heartbeat);
    const std::weak_ptr<Impl> weak = weak_from_this();
    LinkHandlers handlers;
    handlers.on_message = [weak](const LinkPtr& link, const control::Envelope& message) {
      if (const auto self = weak.lock()) self->on_message(link, message);
    };
    handlers.on_closed = [weak](const LinkPtr& link, const Status& why) {
      if (const auto self = weak.lock()) self->on_closed(link, why);
    };
    GH_ASSIGN(server, ControlServer::listen(io, options.listen, server_options, std::move(handlers)));
    return {};
  }

  void on_message(const LinkPtr& link, const control::Envelope& message) {
    switch (message.body_case()) {
      case control::Envelope::kHello:
        return on_hello(link, message.hello(), message.id());
      case control::Envelope::kPlacement:
        return on_placement(link, message.placement(), message.id());
      case control::Envelope::kStatusRequest:
        return on_status_request(link, message.id());
      case control::Envelope::kDrain:
        log_info("drain", "asked_by=\"{}\"", link->peer());
        draining = true;
        return on_drain();
      default:
        return;  // a newer minor version's message
    }
  }

  void on_hello(const LinkPtr& link, const control::Hello& hello, uint64_t id) {
    const Result<void> acceptable = check_hello(hello);
    if (acceptable.has_error()) return refuse(link, acceptable.error(), id);
    if (routers.count(link) > 0)
      return refuse(link, {Code::invalid_argument, "a second hello on one link"}, id);
    std::vector<std::string> addresses{hello.exchange_address()};
    for (const std::string& more : hello.more_exchange_addresses()) addresses.push_back(more);
    Router& router = routers[link] = {.name = hello.router_name(), .generation = hello.generation()};
    for (size_t i = 0; i < addresses.size(); ++i)
      router.replicas.push_back(addresses.size() == 1 ? router.name : fmt::format("{}/{}", router.name, i));
    // Weak: the worker may outlive the io_context, and with it keep this should it never come to attach.
    const auto on_io = [weak = weak_from_this(), weak_link = std::weak_ptr(link)](auto action) {
      const auto self = weak.lock();
      if (!self) return;
      boost::asio::post(self->io, [weak, weak_link, action] {
        const auto self = weak.lock();
        const LinkPtr link = weak_link.lock();
        if (self && link) action(*self, link);
      });
    };
    for (size_t i = 0; i < addresses.size(); ++i)
      worker.attach_router(
          router.replicas[i], addresses[i], hello.generation(),
          [on_io, id](Result<void> attached) {
            on_io([id, attached](Impl& self, const LinkPtr& link) { self.on_attached(link, attached, id); });
          },
          [on_io](const Status& why) {
            on_io([why](Impl& self, const LinkPtr& link) { self.on_data_link_lost(link, why); });
          });
  }

  Result<void> check_hello(const control::Hello& hello) const {
    const std::string who = fmt::format("worker={}: router {}", options.worker_name, hello.router_name());
    if (draining) return Status{Code::unavailable, fmt::format("worker={} is draining", options.worker_name)};
    if (hello.exchange_kind() != options.exchange_kind)
      return Status{Code::invalid_argument, fmt::format("{} has transport.kind {}, this worker {}", who,
                                                        hello.exchange_kind(), options.exchange_kind)};
    if (hello.model_type() != spec.model_type || hello.model_fingerprint() != fingerprint(spec))
      return Status{Code::invalid_argument,
                    fmt::format("{} serves another {} checkpoint than the one at {}", who, hello.model_type(),
                                options.model_path.string())};
    for (const uint32_t codec : {hello.dispatch_codec(), hello.combine_codec()})
      if (codec >= kNumCodecs)
        return Status{Code::unsupported,
                      fmt::format("{} asks for codec {}, which this version lacks", who, codec)};
    if (hello.more_exchange_addresses_size() >= kMaxReplicas)
      return Status{Code::invalid_argument,
                    fmt::format("{} has {} replicas; at most {} fit", who,
                                hello.more_exchange_addresses_size() + 1, kMaxReplicas)};
    if (hello.combine() > static_cast<uint32_t>(Combine::reduced))
      return Status{Code::unsupported,
                    fmt::format("{} asks for combine {}, which this version lacks", who, hello.combine())};
    return {};
  }

  // Of one replica; the router hears when all are.
  void on_attached(const LinkPtr& link, const Result<void>& attached, uint64_t id) {
    const auto router = routers.find(link);
    if (router == routers.end()) return;  // the link ended meanwhile
    if (attached.has_error()) return refuse(link, attached.error(), id);
    if (++router->second.num_attached < router->second.replicas.size()) return;
    control::Envelope envelope;
    envelope.set_id(id);
    control::HelloReply& reply = *envelope.mutable_hello_reply();
    reply.set_protocol_version(kControlVersion);
    reply.set_software_version(GUILDHALL_VERSION);
    reply.set_worker_name(options.worker_name);
    reply.set_exchange_address(options.exchange_address);
    reply.set_memory_bytes(options.memory_limit);
    reply.set_isa(options.isa);
    send(link, envelope);
  }

  // The router would not know before its deadline: it is told, and both begin anew.
  void on_data_link_lost(const LinkPtr& link, const Status& why) const {
    refuse(link, {why.code, "its data link ended: " + why.message}, 0);
  }

  void on_placement(const LinkPtr& link, const control::Placement& message, uint64_t id) {
    const auto router = routers.find(link);
    if (router == routers.end())
      return refuse(link, {Code::invalid_argument, "a placement before a hello"}, id);
    Result<ExpertsOfLayer> experts = read_placement(message, spec);
    if (experts.has_error()) return refuse(link, experts.error(), id);
    const bool same = loader && loader->experts() == *experts && state != control::LoadStatus::FAILED;
    if (!same) {
      for (const auto& [other, entry] : routers)
        if (other != link && entry.placed)
          return refuse(
              link,
              {Code::invalid_argument, fmt::format("router {} placed other experts here than router {}",
                                                   entry.name, router->second.name)},
              id);
      load(std::move(*experts), message.version());
    }
    router->second.placed = true;
    send(link, load_status());
  }

  void load(ExpertsOfLayer experts, uint32_t version) {
    loader.reset();  // ends a load under way
    state = control::LoadStatus::LOADING;
    placement_version = version;
    const uint64_t attempt = ++load_attempt;
    const std::weak_ptr<Impl> weak = weak_from_this();
    ExpertLoaderOptions loader_options{options.model_path, options.load_mode, options.memory_limit,
                                       options.memory_margin, &worker.memory()};
    loader = std::make_unique<ExpertLoader>(
        std::move(loader_options), spec, std::move(experts),
        [weak, attempt, &io = io](Result<std::shared_ptr<const ExpertStore>> store) {
          boost::asio::post(io, [weak, attempt, store = std::move(store)] {
            if (const auto self = weak.lock(); self && self->load_attempt == attempt) self->on_loaded(store);
          });
        });
    report_progress();
  }

  void on_loaded(const Result<std::shared_ptr<const ExpertStore>>& store) {
    if (store.has_error()) {
      state = control::LoadStatus::FAILED;
      error = store.error().message;
      log_error("load_failed", "{}", error);
    } else {
      state = control::LoadStatus::READY;
      num_experts = (*store)->num_experts();
      resident_bytes = (*store)->bytes();
      worker.set_store(*store);
      log_info("experts_loaded", "experts={} size=\"{}\"", num_experts, format_bytes(resident_bytes));
    }
    tell_routers();
  }

  void report_progress() {
    if (state != control::LoadStatus::LOADING) return;
    tell_routers();
    timer.expires_after(kProgressInterval);
    timer.async_wait([weak = weak_from_this()](const boost::system::error_code& failed) {
      if (const auto self = weak.lock(); self && !failed) self->report_progress();
    });
  }

  void tell_routers() {
    const control::Envelope status = load_status();
    for (const auto& [link, router] : routers)
      if (router.placed) send(link, status);
  }

  control::Envelope load_status() const {
    control::Envelope envelope;
    fill(*envelope.mutable_load_status());
    return envelope;
  }

  void fill(control::LoadStatus& status) const {
    status.set_state(state);
    status.set_placement_version(placement_version);
    if (loader) {
      status.set_bytes_done(loader->bytes_done());
      status.set_bytes_total(loader->bytes_total());
    }
    if (state == control::LoadStatus::READY) {
      status.set_num_experts(num_experts);
      status.set_resident_bytes(resident_bytes);
    }
    if (state == control::LoadStatus::FAILED) status.set_error(error);
  }

  void on_status_request(const LinkPtr& link, uint64_t id) const {
    control::Envelope envelope;
    envelope.set_id(id);
    control::StatusReply& reply = *envelope.mutable_status_reply();
    reply.set_worker_name(options.worker_name);
    reply.set_software_version(GUILDHALL_VERSION);
    fill(*reply.mutable_load());
    reply.set_num_routers(static_cast<uint32_t>(routers.size()));
    const WorkerCounters counters = worker.counters();
    reply.set_rows_served(counters.rows_served);
    reply.set_frames_served(counters.frames_served);
    reply.set_draining(draining);
    send(link, envelope);
  }

  void on_closed(const LinkPtr& link, const Status& why) {
    const auto router = routers.find(link);
    if (router == routers.end()) return;
    log_info("router_detached", "router={} reason=\"{}\"", router->second.name, why.message);
    for (const std::string& replica : router->second.replicas)
      worker.detach_router(replica, router->second.generation);
    routers.erase(router);
  }

  void refuse(const LinkPtr& link, const Status& why, uint64_t id) const {
    log_warn("refused", "peer=\"{}\" reason=\"{}\"", link->peer(), why.message);
    send(link, make_error(why, id));
    link->close(why);
  }

  static void send(const LinkPtr& link, const control::Envelope& envelope) {
    const Result<void> sent = link->send(envelope);
    if (sent.has_error() && sent.error().code != Code::peer_lost) link->close(sent.error());
  }

  boost::asio::io_context& io;
  const ControlServiceOptions options;
  const ModelSpec& spec;
  Worker& worker;
  const std::function<void()> on_drain;
  boost::asio::steady_timer timer;
  std::unique_ptr<ControlServer> server;
  std::map<LinkPtr, Router> routers;
  std::unique_ptr<ExpertLoader> loader;
  uint64_t load_attempt = 0;
  control::LoadStatus::State state = control::LoadStatus::IDLE;
  uint32_t placement_version = 0;
  int64_t num_experts = 0, resident_bytes = 0;
  std::string error;
  bool draining = false;
};

Result<std::unique_ptr<ControlService>> ControlService::start(boost::asio::io_context& io,
                                                              ControlServiceOptions options,
                                                              const ModelSpec& spec, Worker& worker,
                                                              std::function<void()> on_drain) {
  auto impl = std::make_shared<Impl>(io, std::move(options), spec, worker, std::move(on_drain));
  GH_TRY(impl->listen());
  return std::unique_ptr<ControlService>(new ControlService(std::move(impl)));
}

ControlService::ControlService(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlService::~ControlService() {
  impl_->timer.cancel();
  impl_->routers.clear();
  impl_->loader.reset();
}

std::string ControlService::local_address() const { return impl_->server->local_address(); }

}  // namespace guildhall
