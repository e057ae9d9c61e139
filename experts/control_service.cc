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
#include "experts/expert_moves.h"
#include "experts/hello_check.h"
#include "experts/loads_message.h"
#include "proto/control.pb.h"
#include "proto/envelope.h"
#include "transport/control/control_server.h"

namespace guildhall {
namespace {

constexpr std::chrono::milliseconds kProgressInterval{200};
constexpr std::chrono::seconds kLoadsInterval{1};

}  // namespace

struct ControlService::Impl : std::enable_shared_from_this<Impl> {
  // Who has greeted: a router, or another worker that fetches experts.
  struct Greeted {
    std::string name;
    bool is_worker = false;
    std::vector<std::string> replicas;  // of a router: the worker's peers on the data plane
    size_t num_to_attach = 0;           // links of the data plane that are still to come
    uint64_t generation = 0;
    bool placed = false;    // it sent a placement: it hears of loading, and of what is held
    uint32_t has_seen = 0;  // newest holdings beyond which it asks for nothing
    WorkerCounters told;    // of its last WorkerLoads
  };

  Impl(boost::asio::io_context& io, ControlServiceOptions options, const ModelSpec& spec, Worker& worker,
       std::function<void()> on_drain)
      : io(io),
        options(std::move(options)),
        spec(spec),
        worker(worker),
        on_drain(std::move(on_drain)),
        timer(io),
        loads_timer(io) {}

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
    moves = std::make_unique<ExpertMoves>(io, loader_options(), peer_options(), spec, worker, move_hooks());
    report_loads();
    return {};
  }

  ExpertLoaderOptions loader_options() const {
    return {options.model_path,    options.load_mode, options.memory_limit,
            options.memory_margin, &worker.memory(),  options.offload};
  }

  PeerLinkOptions peer_options() const {
    return {.worker_name = options.worker_name,
            .exchange_kind = options.exchange_kind,
            .exchange_address = options.exchange_address,
            .heartbeat = options.heartbeat,
            .deadline = options.peer_deadline};
  }

  // Called while this is alive: the moves are its own.
  ExpertMovesHooks move_hooks() {
    return {.changed = [this](bool is_new_version) { on_holdings_changed(is_new_version); },
            .tell =
                [](const LinkPtr& link, const control::MoveStatus& status) {
                  control::Envelope envelope;
                  *envelope.mutable_move_status() = status;
                  send(link, envelope);
                },
            .seen_by_all = [this] { return seen_by_all(); }};
  }

  void on_message(const LinkPtr& link, const control::Envelope& message) {
    switch (message.body_case()) {
      case control::Envelope::kHello:
        return on_hello(link, message.hello(), message.id());
      case control::Envelope::kPlacement:
        return on_placement(link, message.placement(), message.id());
      case control::Envelope::kHoldingsSeen:
        return on_holdings_seen(link, message.holdings_seen());
      case control::Envelope::kAddExperts:
        if (is_router(link, message.id())) moves->add(link, message.add_experts());
        return;
      case control::Envelope::kDropExperts:
        if (is_router(link, message.id())) moves->drop(link, message.drop_experts());
        return;
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
    const Result<void> acceptable =
        draining ? Result<void>(
                       Status{Code::unavailable, fmt::format("worker={} is draining", options.worker_name)})
                 : check_hello(hello, options, spec);
    if (acceptable.has_error()) return refuse(link, acceptable.error(), id);
    if (greeted.count(link) > 0)
      return refuse(link, {Code::invalid_argument, "a second hello on one link"}, id);
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
    const auto attached = [on_io, id](Result<void> result) {
      on_io([id, result](Impl& self, const LinkPtr& link) { self.on_attached(link, result, id); });
    };
    const auto lost = [on_io](const Status& why) {
      on_io([why](Impl& self, const LinkPtr& link) { self.on_data_link_lost(link, why); });
    };
    Greeted& peer = greeted[link] = {.name = hello.router_name(),
                                     .is_worker = hello.from_worker(),
                                     .num_to_attach = 1,
                                     .generation = hello.generation()};
    if (peer.is_worker) {
      const WorkerPeer asker{hello.router_name(), hello.exchange_address(), hello.generation()};
      return worker.use_weight_links([=](WeightLinks& links) {
        const Result<bool> is_new = links.attach_asker(asker, lost);
        on_io([id, is_new](Impl& self, const LinkPtr& link) {
          if (is_new.has_error()) return self.on_attached(link, is_new.error(), id);
          self.on_attached(link, {}, id, *is_new);
        });
      });
    }
    std::vector<std::string> addresses{hello.exchange_address()};
    for (const std::string& more : hello.more_exchange_addresses()) addresses.push_back(more);
    peer.num_to_attach = addresses.size();
    for (size_t i = 0; i < addresses.size(); ++i) {
      peer.replicas.push_back(addresses.size() == 1 ? peer.name : fmt::format("{}/{}", peer.name, i));
      worker.attach_router(peer.replicas[i], addresses[i], hello.generation(), attached, lost);
    }
  }

  // Of one link of the data plane; the peer hears when all are.
  void on_attached(const LinkPtr& link, const Result<void>& attached, uint64_t id,
                   bool is_data_link_new = true) {
    const auto peer = greeted.find(link);
    if (peer == greeted.end()) return;  // the link ended meanwhile
    if (attached.has_error()) return refuse(link, attached.error(), id);
    if (--peer->second.num_to_attach > 0) return;
    control::Envelope envelope;
    envelope.set_id(id);
    control::HelloReply& reply = *envelope.mutable_hello_reply();
    reply.set_protocol_version(kControlVersion);
    reply.set_software_version(GUILDHALL_VERSION);
    reply.set_worker_name(options.worker_name);
    reply.set_exchange_address(options.exchange_address);
    reply.set_memory_bytes(options.memory_limit);
    reply.set_isa(options.isa);
    reply.set_is_data_link_new(is_data_link_new);
    reply.set_offloads(options.offload != OffloadMode::none);
    send(link, envelope);
  }

  // The other end would not know before its deadline: it is told, and may begin anew.
  void on_data_link_lost(const LinkPtr& link, const Status& why) const {
    const auto peer = greeted.find(link);
    if (peer == greeted.end() || peer->second.is_worker) return link->close(why);  // as when it is done here
    refuse(link, {why.code, "its data link ended: " + why.message}, 0);
  }

  // Whether the link is a router's; another's is refused.
  bool is_router(const LinkPtr& link, uint64_t id) const {
    const auto peer = greeted.find(link);
    const bool is_one = peer != greeted.end() && !peer->second.is_worker;
    if (!is_one)
      refuse(link, {Code::invalid_argument, "experts are placed and moved by routers, after a hello"}, id);
    return is_one;
  }

  void on_placement(const LinkPtr& link, const control::Placement& message, uint64_t id) {
    if (!is_router(link, id)) return;
    Result<ExpertsOfLayer> experts = read_experts(message.layers(), spec, "placement");
    if (experts.has_error()) return refuse(link, experts.error(), id);
    // Who holds or loads something keeps it, and says so: others may have moved experts since.
    if (state == control::LoadStatus::IDLE || state == control::LoadStatus::FAILED)
      load(std::move(*experts), message.version());
    Greeted& router = greeted[link];
    const bool is_first = !std::exchange(router.placed, true);
    send(link, load_status());
    if (state != control::LoadStatus::READY) return;
    if (is_first) router.has_seen = moves->holdings().version();  // it was never told of what is retiring
    send(link, holdings_message());
  }

  void on_holdings_seen(const LinkPtr& link, const control::HoldingsSeen& message) {
    const auto peer = greeted.find(link);
    if (peer == greeted.end()) return;
    uint32_t& seen = peer->second.has_seen;
    seen = std::clamp(message.version(), seen, moves->holdings().version());
    moves->check_seen();
  }

  uint32_t seen_by_all() const {
    uint32_t least = UINT32_MAX;
    for (const auto& [link, peer] : greeted)
      if (peer.placed) least = std::min(least, peer.has_seen);
    return least;
  }

  void load(ExpertsOfLayer experts, uint32_t version) {
    loader.reset();  // ends a load under way
    state = control::LoadStatus::LOADING;
    placement_version = version;
    const uint64_t attempt = ++load_attempt;
    const std::weak_ptr<Impl> weak = weak_from_this();
    loader = std::make_unique<ExpertLoader>(
        loader_options(), spec, std::move(experts), [weak, attempt, &io = io](Result<LoadedExperts> loaded) {
          boost::asio::post(io, [weak, attempt, loaded = std::move(loaded)] {
            if (const auto self = weak.lock(); self && self->load_attempt == attempt) self->on_loaded(loaded);
          });
        });
    report_progress();
  }

  void on_loaded(const Result<LoadedExperts>& loaded) {
    if (loaded.has_error()) {
      state = control::LoadStatus::FAILED;
      error = loaded.error().message;
      log_error("load_failed", "{}", error);
      return tell_routers();
    }
    // Announced when they can be dispatched to.
    const auto ready = [&](int64_t bytes) {
      return [weak = weak_from_this(), attempt = load_attempt, bytes] {
        const auto self = weak.lock();
        if (!self) return;
        boost::asio::post(self->io, [weak, attempt, bytes] {
          if (const auto self = weak.lock(); self && self->load_attempt == attempt) self->on_ready(bytes);
        });
      };
    };
    if (const auto* cold = std::get_if<std::shared_ptr<ColdExperts>>(&*loaded)) {
      log_info("experts_offloaded", "experts={} resident_at_once={} memory=\"{}\"",
               count_of(loader->experts()), (*cold)->num_slots(), format_bytes(options.memory_limit));
      return worker.set_offloaded(*cold, loader->experts(), ready(0));
    }
    const auto& store = std::get<std::shared_ptr<const ExpertStore>>(*loaded);
    worker.set_store(store, ready(store->bytes()));
  }

  void on_ready(int64_t bytes) {
    state = control::LoadStatus::READY;
    if (options.offload == OffloadMode::none)
      log_info("experts_loaded", "experts={} size=\"{}\"", count_of(loader->experts()), format_bytes(bytes));
    moves->start(loader->experts(), bytes);
  }

  void on_holdings_changed(bool is_new_version) {
    tell_routers();
    if (!is_new_version) return;
    const control::Envelope message = holdings_message();
    for (const auto& [link, peer] : greeted)
      if (peer.placed) send(link, message);
  }

  control::Envelope holdings_message() const {
    control::Envelope envelope;
    *envelope.mutable_holdings() = moves->holdings().message();
    return envelope;
  }

  // To every router what it has not heard, once a second.
  void report_loads() {
    const WorkerCounters now = worker.counters();
    control::Envelope envelope;
    *envelope.mutable_worker_loads() = loads_message(now);
    for (auto& [link, peer] : greeted) {
      if (!peer.placed || peer.told.runs == now.runs) continue;
      peer.told = now;
      send(link, envelope);
    }
    loads_timer.expires_after(kLoadsInterval);
    loads_timer.async_wait([weak = weak_from_this()](const boost::system::error_code& cancelled) {
      if (const auto self = weak.lock(); self && !cancelled) self->report_loads();
    });
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
    for (const auto& [link, peer] : greeted)
      if (peer.placed) send(link, status);
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
      status.set_num_experts(moves->holdings().num_resident());
      const std::optional<ResidentSums> offload = worker.counters().offload;
      status.set_resident_bytes(offload ? static_cast<int64_t>(offload->resident_bytes)
                                        : moves->resident_bytes());
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
    reply.set_num_routers(static_cast<uint32_t>(
        std::ranges::count_if(greeted, [](const auto& entry) { return !entry.second.is_worker; })));
    const WorkerCounters counters = worker.counters();
    reply.set_rows_served(counters.rows_served);
    reply.set_frames_served(counters.frames_served);
    reply.set_draining(draining);
    send(link, envelope);
  }

  void on_closed(const LinkPtr& link, const Status& why) {
    const auto found = greeted.find(link);
    if (found == greeted.end()) return;
    const Greeted peer = std::move(found->second);
    greeted.erase(found);
    log_info(peer.is_worker ? "worker_detached" : "router_detached", "{}={} reason=\"{}\"",
             peer.is_worker ? "peer" : "router", peer.name, why.message);
    for (const std::string& replica : peer.replicas) worker.detach_router(replica, peer.generation);
    if (peer.is_worker)
      worker.use_weight_links(
          [generation = peer.generation](WeightLinks& links) { links.detach(generation); });
    moves->forget(link);  // after the detachment: it holds up no drop, and sends nothing more
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
  boost::asio::steady_timer timer, loads_timer;
  std::unique_ptr<ControlServer> server;
  std::map<LinkPtr, Greeted> greeted;
  std::unique_ptr<ExpertLoader> loader;
  std::unique_ptr<ExpertMoves> moves;
  uint64_t load_attempt = 0;
  control::LoadStatus::State state = control::LoadStatus::IDLE;
  uint32_t placement_version = 0;
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
  impl_->loads_timer.cancel();
  impl_->greeted.clear();
  impl_->loader.reset();
  impl_->moves.reset();
}

std::string ControlService::local_address() const { return impl_->server->local_address(); }

}  // namespace guildhall
