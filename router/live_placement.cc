#include "router/live_placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <ranges>

#include "base/check.h"

namespace guildhall {
namespace {

// Per layer; all lists ascend.
ExpertsOfLayer united(const ExpertsOfLayer& a, const ExpertsOfLayer& b) {
  ExpertsOfLayer all_l(std::max(a.size(), b.size()));
  for (size_t l = 0; l < all_l.size(); ++l) {
    const auto of = [&](const ExpertsOfLayer& x) { return l < x.size() ? x[l] : std::vector<int32_t>(); };
    std::ranges::set_union(of(a), of(b), std::back_inserter(all_l[l]));
  }
  return all_l;
}

ExpertsOfLayer without(const ExpertsOfLayer& a, const ExpertsOfLayer& b) {
  ExpertsOfLayer left_l = a;
  for (size_t l = 0; l < std::min(a.size(), b.size()); ++l) {
    left_l[l].clear();
    std::ranges::set_difference(a[l], b[l], std::back_inserter(left_l[l]));
  }
  return left_l;
}

}  // namespace

LivePlacement::LivePlacement(ExpertGrid grid, int64_t num_workers)
    : members_(static_cast<size_t>(num_workers)), table_(std::move(grid)), held_w_(members_.size()) {}

void LivePlacement::attach(int32_t worker, Holdings holdings) {
  member(worker) = {.is_attached = true, .announced = std::move(holdings), .kept_l = {}};
  is_stale_ = true;
}

void LivePlacement::announce(int32_t worker, Holdings holdings) {
  Member& m = member(worker);
  GH_CHECK(m.is_attached);
  m.kept_l = without(united(m.announced.experts_l, m.kept_l), holdings.experts_l);
  m.announced = std::move(holdings);
  is_stale_ = true;
}

void LivePlacement::detach(int32_t worker) {
  member(worker) = {};
  is_stale_ = true;
}

bool LivePlacement::all_attached() const {
  return std::ranges::all_of(members_, [](const Member& m) { return m.is_attached; });
}

bool LivePlacement::is_settled(int32_t worker) {
  table();
  return count_experts(member(worker).kept_l) == 0;
}

const ReplicaTable& LivePlacement::table() {
  if (!std::exchange(is_stale_, false)) return table_;
  build_table(/*with_kept=*/false);
  bool keeps = false;
  for (Member& m : members_)
    for (size_t l = 0; l < m.kept_l.size(); ++l) {
      std::erase_if(m.kept_l[l], [&](int32_t expert) {
        return table_.layer(static_cast<int64_t>(l)).worker_e[static_cast<size_t>(expert)] != kNobody;
      });
      keeps |= !m.kept_l[l].empty();
    }
  if (keeps) build_table(/*with_kept=*/true);
  return table_;
}

void LivePlacement::build_table(bool with_kept) {
  for (size_t w = 0; w < members_.size(); ++w) {
    held_w_[w] = {&members_[w].announced.experts_l};  // of who is not attached: nothing
    if (with_kept) held_w_[w].push_back(&members_[w].kept_l);
  }
  table_.build(held_w_);
}

std::string LivePlacement::uncovered() {
  const int64_t num = table().num_uncovered();
  if (num == 0) return {};
  const auto [layer, expert] = table_.first_uncovered();
  std::string message = fmt::format("layer {} expert {} is held by nobody", layer, expert);
  if (num > 1) message += fmt::format(", as are {} more", num - 1);
  return message;
}

}  // namespace guildhall
