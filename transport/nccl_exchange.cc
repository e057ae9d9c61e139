// nccl_exchange.cc: opening, peers coming and going, poll and wait.
#include "transport/nccl_exchange.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"
#include "transport/wait_options.h"

namespace guildhall {

// What comes over the signals. Frames are delivered by poll(), so that they keep their order with those of
// NCCL.
class NcclExchange::Listener final : public ExchangeHandler {
 public:
  explicit Listener(NcclExchange& owner) : owner_(owner) {}
  void on_frame(PeerId peer, std::span<const std::byte> bytes) override { owner_.on_signal(peer, bytes); }
  void on_peer_lost(PeerId peer, const Status& why) override { owner_.lose(peer, why); }

 private:
  NcclExchange& owner_;
};

Result<std::unique_ptr<Exchange>> NcclExchange::open(const NcclOptions& options,
                                                     std::unique_ptr<Exchange> signals) {
  int version = 0, num_devices = 0;
  if (ncclGetVersion(&version) != ncclSuccess)
    return Status{Code::unavailable, fmt::format("transport.kind nccl: {}", ncclGetLastError(nullptr))};
  GH_TRY(check_cuda(cudaGetDeviceCount(&num_devices), "cudaGetDeviceCount"));
  if (options.device < 0 || options.device >= num_devices)
    return Status{Code::invalid_argument,
                  fmt::format("transport.nccl.device: {}, but this process sees {} CUDA devices, from 0",
                              options.device, num_devices)};
  std::unique_ptr<NcclExchange> exchange(new NcclExchange(options, std::move(signals)));
  GH_TRY(exchange->use_device());
  log_info("nccl", "version={} device={} hub={} min_frame={}", version, options.device, options.is_hub,
           options.min_frame_bytes);
  return std::unique_ptr<Exchange>(std::move(exchange));
}

NcclExchange::~NcclExchange() { use_device(); }

Result<std::unique_ptr<Exchange>> open_nccl_exchange(const NcclOptions& options,
                                                     std::unique_ptr<Exchange> signals) {
  return NcclExchange::open(options, std::move(signals));
}

// CUDA's current device is each thread's own, and the owner may change before the first frame.
Result<void> NcclExchange::use_device() {
  if (device_set_for_ == std::this_thread::get_id()) return {};
  GH_TRY(check_cuda(cudaSetDevice(options_.device), "cudaSetDevice"));
  device_set_for_ = std::this_thread::get_id();
  return {};
}

NcclExchange::Peer* NcclExchange::find(PeerId id) {
  const auto found = peers_.find(id);
  return found == peers_.end() || found->second.lost ? nullptr : &found->second;
}

Result<PeerId> NcclExchange::connect(std::string_view name, std::string_view address) {
  GH_ASSIGN(const PeerId id, signals_->connect(name, address));
  peers_.emplace(id, Peer{.name = std::string(name), .link = ++last_link_});
  return id;
}

void NcclExchange::disconnect(PeerId id) {
  const auto found = peers_.find(id);
  if (found == peers_.end()) return;
  if (!found->second.lost) forget(id, found->second);
  peers_.erase(id);
  signals_->disconnect(id);
}

void NcclExchange::forget(PeerId id, Peer& peer) {
  peer.lost = true;  // nothing more is sent to it
  peer.acquired.reset();
  peer.unconfirmed.clear();
  peer.inbound.clear();
  retire(peer.star);
  if (!options_.is_hub) return;
  if (star_ && rank_of(id) > 0) close_generation({Code::peer_lost, fmt::format("peer {} left", peer.name)});
  members_changed();
}

void NcclExchange::lose(PeerId id, Status why) {
  Peer* peer = find(id);
  if (!peer) return;
  forget(id, *peer);
  ready_.push_back({.peer = id, .lost = true, .why = std::move(why)});
}

size_t NcclExchange::poll(ExchangeHandler& handler) {
  lent_.clear();
  if (const Result<void> device = use_device(); device.has_error())
    for (const auto& [id, peer] : peers_) lose(id, device.error());
  Listener listener(*this);
  signals_->poll(listener);
  start_receives();
  progress_stars();
  if (options_.is_hub) manage_generations();
  if (ready_.empty()) return 0;
  lent_.swap(ready_);
  size_t num_callbacks = 0;
  for (on_frame_idx_ = 0; on_frame_idx_ < lent_.size(); ++on_frame_idx_) {
    const Ready& ready = lent_[on_frame_idx_];
    const auto peer = peers_.find(ready.peer);
    // Disconnected meanwhile, or lost: then its loss is the last that is said of it.
    if (peer == peers_.end()) continue;
    ++num_callbacks;
    if (ready.lost)
      handler.on_peer_lost(ready.peer, ready.why);
    else
      handler.on_frame(ready.peer, {ready.frame.data, ready.frame.bytes});
  }
  return num_callbacks;
}

FrameHold NcclExchange::hold() {
  GH_CHECK(on_frame_idx_ < lent_.size());
  return {*this, held_.put(std::exchange(lent_[on_frame_idx_].frame, {}))};
}

// What is under way in NCCL ends without waking anybody.
void NcclExchange::wait(std::chrono::nanoseconds timeout) {
  if (!ready_.empty()) return;
  constexpr std::chrono::microseconds kWhileBusy{50};
  constexpr std::chrono::milliseconds kHubsLook{20};  // at who has come, and at who is late
  constexpr int kLooksWhileBusy = 16;                 // before each sleep; some ten microseconds
  for (int i = 0; i < kLooksWhileBusy && busy() && ready_.empty(); ++i) progress_stars();
  if (!ready_.empty()) return;
  if (busy()) timeout = std::min<std::chrono::nanoseconds>(timeout, kWhileBusy);
  if (options_.is_hub && stale_) timeout = std::min<std::chrono::nanoseconds>(timeout, kHubsLook);
  signals_->wait(timeout);
}

bool NcclExchange::busy() const {
  if (star_ && star_->busy()) return true;
  for (const auto& [id, peer] : peers_)
    if (peer.star && peer.star->busy()) return true;
  return false;
}

std::string NcclExchange::describe(PeerId id) const {
  const auto found = peers_.find(id);
  const bool joined = found != peers_.end() && route(id, found->second, options_.min_frame_bytes);
  return fmt::format("nccl{}, signals by {}", joined ? "" : " (not joined yet)", signals_->describe(id));
}

}  // namespace guildhall
