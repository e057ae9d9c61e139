// ucx_exchange.cc: opening, peers coming and going, poll and wait.
#include "transport/ucx_exchange.h"

#include <fmt/format.h>

#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "transport/peer_ids.h"

namespace guildhall {
namespace {

TailPool* usable_tails(const UcxOptions& options, const UcxWorker& worker) {
  const bool usable = options.tails && (options.tails->is_host() || knows_gpu_memory(worker.context.get()));
  return usable ? options.tails : nullptr;
}

}  // namespace

Result<std::unique_ptr<UcxExchange>> UcxExchange::open(const UcxOptions& options) {
  GH_ASSIGN(UcxWorker worker, open_ucx_worker(options));
  GH_ASSIGN(UcxWaiter waiter, UcxWaiter::open(worker.get(), options.wait));
  GH_ASSIGN(std::string worker_address, ucx_worker_address(worker.get()));
  UcxAddress address{random_instance(), own_network_namespace(), std::move(worker_address)};
  std::unique_ptr<UcxExchange> exchange(
      new UcxExchange(options, std::move(worker), std::move(waiter), std::move(address)));

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kFrameAmId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG | UCP_AM_FLAG_PERSISTENT_DATA;
  handler.cb = on_active_message;
  handler.arg = exchange.get();
  if (ucs_status_t status = ucp_worker_set_am_recv_handler(exchange->worker_.get(), &handler);
      status != UCS_OK)
    return Status{Code::unsupported,
                  fmt::format("transport.ucx: these transports carry no active messages: {}",
                              ucs_status_string(status))};
  return exchange;
}

UcxExchange::UcxExchange(const UcxOptions& options, UcxWorker worker, UcxWaiter waiter, UcxAddress address)
    : options_(options),
      local_address_(encode(address)),
      instance_(address.instance),
      network_namespace_(address.network_namespace),
      tails_(usable_tails(options, worker)),
      worker_(std::move(worker)),
      waiter_(std::move(waiter)) {}

UcxExchange::~UcxExchange() {
  shutting_down_ = true;
  for (auto& [id, peer] : peers_) {
    abandon(peer);
    if (!peer.lost) start_close(id, peer, /*flush=*/peer.has_sent_frames);
    peer.lost = true;  // what the close cuts off is no loss
  }
  // Each close ends by its own deadlines: flush, then close.
  while (!closing_.empty()) {
    if (ucp_worker_progress(worker_.get()) == 0) std::this_thread::yield();
    progress_closing();
  }
  // UCX ends cut-off requests from its queue of callbacks; bounded, since live peers may go on sending.
  for (int i = 0; i < 1000 && ucp_worker_progress(worker_.get()) != 0; ++i) {
  }
  for (Arrival& arrival : links_.release_all()) release(arrival);
  for (std::vector<Ready>* list : {&ready_, &delivering_})
    for (Ready& ready : *list) release(ready.arrival);
}

UcxExchange::Peer* UcxExchange::find(PeerId id) {
  auto found = peers_.find(id);
  return found == peers_.end() ? nullptr : &found->second;
}

Result<PeerId> UcxExchange::connect(std::string_view name, std::string_view address_bytes) {
  auto address = decode_ucx_address(address_bytes);
  if (!address)
    return Status{address.error().code, fmt::format("peer {}: {}", name, address.error().message)};
  Peer peer{.name = std::string(name), .instance = address->instance, .link = ++last_link_};
  const PeerId id = next_peer_id();
  auto claimed = links_.claim(peer.instance, id);
  if (!claimed)
    return Status{claimed.error().code, fmt::format("peer {}: {}", name, claimed.error().message)};
  for (Arrival& arrival : claimed->stale) release(arrival);

  // Peer error handling where the transports have it. Where none has, the control plane's heartbeats must do.
  auto endpoint = make_endpoint(peer, address->worker, true);
  if (!endpoint) {
    peer.reports_errors = false;
    endpoint = make_endpoint(peer, address->worker, false);
  }
  if (!endpoint) {
    for (Arrival& arrival : claimed->frames) release(arrival);
    links_.retire(peer.instance);
    return endpoint.error();
  }
  peer.endpoint = *endpoint;
  const bool lost_frames = links_.lost_frames(peer.instance);
  peers_.emplace(id, std::move(peer));

  const std::string transports = describe(id);
  const bool shared_memory =
      transports.find("posix") != std::string::npos || transports.find("sysv") != std::string::npos;
  peers_.at(id).slot_access = {.shares_memory = shared_memory,
                               .has_native_put = has_native_put(peers_.at(id).endpoint)};
  if (shared_memory && address->network_namespace != network_namespace_) cannot_be_woken_ = true;
  log_info("ucx_connected", "peer={} via=\"{}\" reports_loss={} wakes={}", name, transports,
           peers_.at(id).reports_errors, !cannot_be_woken_);

  for (Arrival& arrival : claimed->frames)
    if (!accept(id, arrival)) release(arrival);
  if (lost_frames)
    fail(id,
         {Code::resource_exhausted, fmt::format("peer {} sent more than {} frames before it was connected",
                                                name, kMaxUnclaimedFrames)});
  return id;
}

Result<ucp_ep_h> UcxExchange::make_endpoint(const Peer& peer, const std::string& worker_address,
                                            bool report_errors) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(worker_address.data());
  params.err_mode = report_errors ? UCP_ERR_HANDLING_MODE_PEER : UCP_ERR_HANDLING_MODE_NONE;
  if (report_errors) {
    params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_handler = {on_endpoint_error, this};
  }
  ucp_ep_h endpoint = nullptr;
  if (ucs_status_t status = ucp_ep_create(worker_.get(), &params, &endpoint); status != UCS_OK)
    return Status{Code::unavailable,
                  fmt::format("peer {}: no common transport reaches it (tls=\"{}\" net_devices=\"{}\"): {}",
                              peer.name, options_.tls, options_.net_devices, ucs_status_string(status))};
  return endpoint;
}

void UcxExchange::disconnect(PeerId id) {
  Peer* peer = find(id);
  if (!peer) return;
  abandon(*peer);
  if (!peer->lost) {
    links_.retire(peer->instance);
    start_close(id, *peer, /*flush=*/peer->has_sent_frames);
  }
  peers_.erase(id);
}

void UcxExchange::on_endpoint_error(void* self, ucp_ep_h endpoint, ucs_status_t status) {
  auto& exchange = *static_cast<UcxExchange*>(self);
  for (auto& [id, peer] : exchange.peers_) {
    if (peer.endpoint != endpoint || peer.lost) continue;
    return exchange.fail(id,
                         {Code::peer_lost, fmt::format("peer {}: {}", peer.name, ucs_status_string(status))});
  }
}

void UcxExchange::fail(PeerId id, Status why) {
  Peer* peer = find(id);
  if (!peer || peer->lost) return;
  peer->lost = true;
  links_.retire(peer->instance);
  abandon(*peer);
  start_close(id, *peer, /*flush=*/false);
  ready_.push_back({.peer = id, .lost = true, .why = std::move(why)});
}

void UcxExchange::abandon(Peer& peer) {
  if (peer.acquired) recycle(std::exchange(peer.acquired, nullptr));
  if (peer.head) release(*peer.head);
  peer.head.reset();
  for (Arrival& arrival : peer.early) release(arrival);
  peer.early.clear();
}

// Never called while UCX runs a callback when `flush`; without, it only notes the endpoint down, since a
// forced close is not for callbacks.
void UcxExchange::start_close(PeerId id, Peer& peer, bool flush) {
  Closing closing{.peer = id,
                  .endpoint = peer.endpoint,
                  .reports_errors = peer.reports_errors,
                  .flushing = true,
                  .deadline = Clock::now(),
                  .outbound = std::move(peer.outbound)};
  peer.inbound.reset();
  if (flush) {
    ucp_request_param_t param{};
    void* request = ucp_ep_flush_nbx(peer.endpoint, &param);
    if (UCS_PTR_IS_PTR(request)) closing.request = request;
    closing.deadline += options_.close_timeout;
  }
  peer.endpoint = nullptr;
  closing_.push_back(std::move(closing));
}

void UcxExchange::progress_closing() {
  // Cutting off one peer's frames may fail another, which then starts to close.
  std::vector<Closing> under_way = std::exchange(closing_, {});
  std::erase_if(under_way, [this](Closing& closing) { return advance(closing); });
  closing_.insert(closing_.begin(), std::make_move_iterator(under_way.begin()),
                  std::make_move_iterator(under_way.end()));
}

bool UcxExchange::advance(Closing& closing) {
  const bool late = Clock::now() >= closing.deadline;
  if (closing.request && ucp_request_check_status(closing.request) == UCS_INPROGRESS && !late) return false;
  if (closing.flushing && !late)  // a flush does not wait for rendezvous sends
    for (const auto& send : sends_)
      if (send->peer == closing.peer) return false;
  if (closing.request) ucp_request_free(std::exchange(closing.request, nullptr));
  if (!closing.flushing) return true;

  ucp_request_param_t param{};
  if (closing.reports_errors) {
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  }
  void* request = ucp_ep_close_nbx(closing.endpoint, &param);
  if (!UCS_PTR_IS_PTR(request)) return true;
  closing.flushing = false;
  closing.request = request;
  closing.deadline = Clock::now() + options_.close_timeout;
  return false;
}

size_t UcxExchange::poll(ExchangeHandler& handler) {
  for (Ready& lent : delivering_) release(lent.arrival);
  delivering_.clear();
  // A limit, so that a peer that never stops sending cannot keep us from delivering.
  constexpr int kMaxProgress = 64;
  for (int i = 0; i < kMaxProgress && ucp_worker_progress(worker_.get()) != 0; ++i) {
  }
  if (!closing_.empty()) progress_closing();
  offer_due_slots();
  if (ready_.empty()) return 0;
  delivering_.swap(ready_);
  size_t num_callbacks = 0;
  for (on_frame_idx_ = 0; on_frame_idx_ < delivering_.size(); ++on_frame_idx_) {
    const Ready& ready = delivering_[on_frame_idx_];
    if (!find(ready.peer)) continue;  // disconnected meanwhile
    ++num_callbacks;
    if (ready.lost)
      handler.on_peer_lost(ready.peer, ready.why);
    else
      handler.on_frame(ready.peer, {ready.arrival.data(), ready.arrival.bytes});
  }
  return num_callbacks;
}

FrameHold UcxExchange::hold() {
  Ready& ready = delivering_[on_frame_idx_];
  return {*this, held_.put(std::exchange(ready, {}))};
}

std::span<const std::byte> UcxExchange::tail() const {
  const Arrival& arrival = delivering_[on_frame_idx_].arrival;
  return {arrival.tail.get(), arrival.tail_bytes};
}

void UcxExchange::end_hold(uint32_t held_idx) {
  Ready lent = held_.take(held_idx);
  release(lent.arrival);
}

void UcxExchange::wait(std::chrono::nanoseconds timeout) {
  if (!ready_.empty()) return;
  if (!closing_.empty()) progress_closing();
  waiter_.wait(timeout, longest_sleep(), [this] { return !ready_.empty(); });
}

std::chrono::nanoseconds UcxExchange::longest_sleep() const {
  // UCX's shared memory transports wake each other through abstract sockets, which end at a network
  // namespace: between two of them frames arrive without an event.
  if (cannot_be_woken_) return std::chrono::microseconds(200);
  if (!closing_.empty()) return std::chrono::milliseconds(10);
  return kLongestWait;
}

std::string UcxExchange::describe(PeerId id) const {
  auto found = peers_.find(id);
  if (found == peers_.end() || !found->second.endpoint) return "ucx (lost)";
  return "ucx " + describe_ucx_endpoint(found->second.endpoint);
}

}  // namespace guildhall
