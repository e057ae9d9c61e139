#include "experts/dispatch_queue.h"

#include <algorithm>
#include <tuple>

namespace guildhall {

bool DispatchQueue::has_room(PeerId router) const {
  const auto of_router = [&](const WaitingDispatch& d) { return d.router == router; };
  return std::ranges::count_if(waiting_, of_router) < static_cast<std::ptrdiff_t>(kMaxPerRouter);
}

void DispatchQueue::push(WaitingDispatch dispatch) { waiting_.push_back(std::move(dispatch)); }

void DispatchQueue::forget(PeerId router) {
  std::erase_if(waiting_, [&](const WaitingDispatch& d) { return d.router == router; });
}

std::span<const WaitingDispatch> DispatchQueue::take_round() {
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

}  // namespace guildhall
