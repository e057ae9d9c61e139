#include "router/balance/layer_search.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace guildhall {
namespace {

constexpr double kLeastGain =
    1e-9;  // of the slowest worker's time; keeps rounding from looking like progress
constexpr int kMaxSwapsPerWorker = 8;

}  // namespace

LayerCost::LayerCost(std::span<const ExpertLoad> load_e, Kind kind) : kind(kind) {
  for (const ExpertLoad& load : load_e) {
    const bool decode = kind == Kind::decode_activations;
    tokens_e.push_back(static_cast<double>(decode ? load.decode_tokens : load.tokens()));
    active_e.push_back(static_cast<double>(decode ? load.decode_active_steps : load.active_steps));
  }
}

LayerSearch::LayerSearch(const LayerCost& cost, const BalanceWorkers& workers, SearchRules rules)
    : cost_(cost),
      workers_(workers),
      rules_(rules),
      num_experts_(cost.tokens_e.size()),
      several_nodes_(workers.num_nodes() > 1),
      count_e_(num_experts_),
      share_e_(num_experts_),
      inverse_speed_w_(workers.size()),
      load_w_(workers.size()),
      experts_ws_(workers.size()),
      holds_we_(workers.size() * num_experts_) {
  for (size_t w = 0; w < workers.size(); ++w) {
    experts_ws_[w].reserve(static_cast<size_t>(workers.slots_w[w]));
    inverse_speed_w_[w] = 1 / workers.speed_w[w];
  }
}

void LayerSearch::replicate(std::span<const int32_t> experts, int64_t num_slots, int32_t max_replicas) {
  for (const int32_t e : experts) {
    count_e_[static_cast<size_t>(e)] = 1;
    share_e_[static_cast<size_t>(e)] = cost_.share(e, 1);
  }
  const auto cheaper = [&](int32_t a, int32_t b) {  // the heap's top: dearest, fewest replicas, lowest expert
    const auto i = static_cast<size_t>(a), j = static_cast<size_t>(b);
    if (share_e_[i] != share_e_[j]) return share_e_[i] < share_e_[j];
    if (count_e_[i] != count_e_[j]) return count_e_[i] > count_e_[j];
    return a > b;
  };
  std::vector<int32_t> heap(experts.begin(), experts.end());
  std::make_heap(heap.begin(), heap.end(), cheaper);
  for (auto left = num_slots - static_cast<int64_t>(experts.size()); left > 0 && !heap.empty();) {
    std::pop_heap(heap.begin(), heap.end(), cheaper);
    const auto e = static_cast<size_t>(heap.back());
    if (count_e_[e] >= max_replicas) {
      heap.pop_back();
      continue;
    }
    ++count_e_[e];
    share_e_[e] = cost_.share(heap.back(), count_e_[e]);
    std::push_heap(heap.begin(), heap.end(), cheaper);
    --left;
  }
}

void LayerSearch::pack(std::span<const int32_t> experts, std::span<const int32_t> workers) {
  std::vector<int32_t> dearest_first(experts.begin(), experts.end());
  std::sort(dearest_first.begin(), dearest_first.end(), [&](int32_t a, int32_t b) {
    const double share_a = share_e_[static_cast<size_t>(a)], share_b = share_e_[static_cast<size_t>(b)];
    return share_a != share_b ? share_a > share_b : a < b;
  });
  std::vector<int32_t> open(workers.begin(), workers.end());
  std::erase_if(open, [&](int32_t w) { return !has_room(static_cast<size_t>(w)); });
  for (const int32_t e : dearest_first) {
    const int32_t wanted = count_e_[static_cast<size_t>(e)];
    int32_t placed = 0;
    int32_t only_node = -1;  // the first replica's; -1 again when another node has one too
    for (; placed < wanted; ++placed) {
      int32_t worker = -1;
      if (only_node >= 0) worker = earliest(open, e, only_node);
      if (worker < 0) worker = earliest(open, e, -1);
      if (worker < 0) break;
      const auto w = static_cast<size_t>(worker);
      put(w, e);
      if (!has_room(w)) std::erase(open, worker);
      if (placed == 0)
        only_node = rules_.spread_nodes ? workers_.node_w[w] : -1;
      else if (workers_.node_w[w] != only_node)
        only_node = -1;
    }
    GH_CHECK(placed > 0);
    if (placed == wanted) continue;
    count_e_[static_cast<size_t>(e)] = placed;
    change_share(e, cost_.share(e, placed) - share_e_[static_cast<size_t>(e)]);
  }
}

// Of `open`, which has room: the worker that is done earliest with e added; -1: all have it, or are on the
// node to avoid (-1: none).
int32_t LayerSearch::earliest(std::span<const int32_t> open, int32_t e, int32_t avoided_node) const {
  const double share = share_e_[static_cast<size_t>(e)];
  int32_t best = -1;
  double best_time = 0;
  for (const int32_t worker : open) {
    const auto w = static_cast<size_t>(worker);
    const double done = time_with(w, share);
    if ((best >= 0 && done >= best_time) || holds(w, e) || workers_.node_w[w] == avoided_node) continue;
    best = worker, best_time = done;
  }
  return best;
}

void LayerSearch::refine(double target) {
  const size_t num_workers = workers_.size();
  std::vector<uint8_t> tried(num_workers);
  for (size_t swaps = 0; swaps < num_workers * kMaxSwapsPerWorker; ++swaps) {
    const size_t slow = slowest();
    if (mean_time() >= target * time(slow)) return;
    std::fill(tried.begin(), tried.end(), uint8_t{0});
    tried[slow] = 1;
    bool swapped = false;
    while (!swapped) {
      size_t fastest = slow;  // of those not tried
      for (size_t w = 0; w < num_workers; ++w)
        if (!tried[w] && (fastest == slow || time(w) < time(fastest))) fastest = w;
      if (fastest == slow) return;
      tried[fastest] = 1;
      if (rules_.within_node && workers_.node_w[fastest] != workers_.node_w[slow]) continue;
      swapped = swap_with(slow, fastest);
    }
  }
}

// The swap (or move into a free slot) that leaves the slower of the two fastest; false: none helps.
bool LayerSearch::swap_with(size_t slow, size_t other) {
  double best_time = time(slow) * (1 - kLeastGain);
  int32_t best_out = kEmptySlot, best_back = kEmptySlot;
  const auto consider = [&](int32_t out, int32_t back) {
    const double change =
        share_e_[static_cast<size_t>(out)] - (back == kEmptySlot ? 0 : share_e_[static_cast<size_t>(back)]);
    if (change <= 0) return;
    const double slower = std::max(time_with(slow, -change), time_with(other, change));
    if (slower >= best_time || holds(other, out)) return;
    if (back != kEmptySlot &&
        (holds(slow, back) || !stays_spread(back, static_cast<int64_t>(other), static_cast<int64_t>(slow))))
      return;
    if (!stays_spread(out, static_cast<int64_t>(slow), static_cast<int64_t>(other))) return;
    best_time = slower, best_out = out, best_back = back;
  };
  for (const int32_t out : experts_ws_[slow]) {
    if (has_room(other)) consider(out, kEmptySlot);
    for (const int32_t back : experts_ws_[other]) consider(out, back);
  }
  if (best_out == kEmptySlot) return false;
  take(slow, best_out);
  if (best_back != kEmptySlot) take(other, best_back);
  put(other, best_out);
  if (best_back != kEmptySlot) put(slow, best_back);
  return true;
}

double LayerSearch::max_time() const { return workers_.size() == 0 ? 0 : time(slowest()); }

double LayerSearch::mean_time() const {
  return std::accumulate(load_w_.begin(), load_w_.end(), 0.0) /
         std::accumulate(workers_.speed_w.begin(), workers_.speed_w.end(), 0.0);
}

double LayerSearch::balancedness() const {
  const double slowest_time = max_time();
  return slowest_time <= 0 ? 1 : mean_time() / slowest_time;
}

int64_t LayerSearch::num_spread_missed() const {
  int64_t missed = 0;
  for (size_t e = 0; several_nodes_ && e < num_experts_; ++e)
    missed += count_e_[e] > 1 && !stays_spread(static_cast<int32_t>(e), -1, -1);
  return missed;
}

size_t LayerSearch::slowest() const {
  size_t slow = 0;
  for (size_t w = 1; w < workers_.size(); ++w)
    if (time(w) > time(slow)) slow = w;
  return slow;
}

void LayerSearch::put(size_t w, int32_t e) {
  experts_ws_[w].push_back(e);
  holds_we_[at(w, e)] = 1;
  load_w_[w] += share_e_[static_cast<size_t>(e)];
}

void LayerSearch::take(size_t w, int32_t e) {
  auto& experts = experts_ws_[w];
  const auto found = std::find(experts.begin(), experts.end(), e);
  GH_CHECK(found != experts.end());
  *found = experts.back();
  experts.pop_back();
  holds_we_[at(w, e)] = 0;
  load_w_[w] -= share_e_[static_cast<size_t>(e)];
}

// Whether an expert that one worker gives up and another takes (-1: none) is on two nodes at least, or on one
// worker.
bool LayerSearch::stays_spread(int32_t e, int64_t without_worker, int64_t with_worker) const {
  if (!several_nodes_ || !rules_.spread_nodes) return true;
  int32_t node = with_worker < 0 ? -1 : workers_.node_w[static_cast<size_t>(with_worker)];
  int64_t replicas = with_worker < 0 ? 0 : 1;
  if (count_e_[static_cast<size_t>(e)] + replicas - (without_worker < 0 ? 0 : 1) < 2) return true;
  for (size_t w = 0; w < workers_.size(); ++w) {
    if (!holds(w, e) || static_cast<int64_t>(w) == without_worker) continue;
    if (node >= 0 && workers_.node_w[w] != node) return true;
    node = workers_.node_w[w];
  }
  return false;
}

void LayerSearch::change_share(int32_t e, double change) {
  share_e_[static_cast<size_t>(e)] += change;
  for (size_t w = 0; w < workers_.size(); ++w)
    if (holds(w, e)) load_w_[w] += change;
}

LayerSlots LayerSearch::slots(const LayerSlots& current) const {
  LayerSlots expert_ws(workers_.size());
  std::vector<int32_t> arriving;
  for (size_t w = 0; w < workers_.size(); ++w) {
    expert_ws[w].assign(static_cast<size_t>(workers_.slots_w[w]), kEmptySlot);
    std::vector<uint8_t> kept(num_experts_);
    if (w < current.size())
      for (size_t slot = 0; slot < std::min(current[w].size(), expert_ws[w].size()); ++slot) {
        const int32_t e = current[w][slot];
        if (e == kEmptySlot || !holds(w, e)) continue;
        expert_ws[w][slot] = e;
        kept[static_cast<size_t>(e)] = 1;
      }
    arriving.clear();
    for (const int32_t e : experts_ws_[w])
      if (!kept[static_cast<size_t>(e)]) arriving.push_back(e);
    std::sort(arriving.begin(), arriving.end());
    auto free_slot = expert_ws[w].begin();
    for (const int32_t e : arriving) {
      free_slot = std::find(free_slot, expert_ws[w].end(), kEmptySlot);
      GH_CHECK(free_slot != expert_ws[w].end());
      *free_slot++ = e;
    }
  }
  return expert_ws;
}

}  // namespace guildhall
