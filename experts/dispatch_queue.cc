#include "experts/dispatch_queue.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace guildhall {

bool DispatchQueue::push(PeerId router, std::span<const std::byte> bytes, const DispatchView& view) {
  const auto of_router = [&](const WaitingDispatch& d) { return d.router == router; };
  if (std::ranges::count_if(waiting_, of_router) >= static_cast<std::ptrdiff_t>(kMaxPerRouter)) return false;
  waiting_.push_back({.router = router, .view = view, .bytes = bytes, .kept = {}});
  return true;
}

void DispatchQueue::forget(PeerId router) {
  std::erase_if(waiting_, [&](const WaitingDispatch& d) { return d.router == router; });
}

std::span<const WaitingDispatch> DispatchQueue::take_round() {
  for (WaitingDispatch& served : round_)
    if (!served.kept.empty()) spare_.push_back(std::move(served.kept));
  round_.clear();
  const auto in_round = [&](PeerId router) {
    return std::ranges::any_of(round_, [&](const WaitingDispatch& d) { return d.router == router; });
  };
  std::erase_if(waiting_, [&](WaitingDispatch& d) {
    if (in_round(d.router)) return false;
    round_.push_back(std::move(d));
    return true;
  });
  std::ranges::sort(round_, {},
                    [](const WaitingDispatch& d) { return std::tuple(d.view.header.layer, d.router); });
  return round_;
}

void DispatchQueue::keep() {
  for (WaitingDispatch& d : waiting_) {
    if (!d.kept.empty()) continue;
    if (!spare_.empty()) {
      d.kept = std::move(spare_.back());
      spare_.pop_back();
    }
    d.kept.resize((d.bytes.size() + 7) / 8);
    std::memcpy(d.kept.data(), d.bytes.data(), d.bytes.size());
    d.bytes = std::as_bytes(std::span(d.kept)).first(d.bytes.size());
    d.view = decode_dispatch(d.bytes).value();
  }
}

}  // namespace guildhall
