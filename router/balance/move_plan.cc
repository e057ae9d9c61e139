#include "router/balance/move_plan.h"

#include <algorithm>

namespace guildhall {
namespace {

bool contains(const ExpertMove& move, ExpertId id) {
  const auto& experts = move.experts_l[static_cast<size_t>(id.layer)];
  return std::find(experts.begin(), experts.end(), id.expert) != experts.end();
}

template <class Visit>
void for_each_expert(const ExpertMove& move, const Visit& visit) {
  for (size_t layer = 0; layer < move.experts_l.size(); ++layer)
    for (const int32_t e : move.experts_l[layer]) visit(ExpertId{static_cast<int32_t>(layer), e});
}

ExpertMove make_move(ExpertMove::Kind kind, int32_t worker, std::span<const ExpertId> experts,
                     const ExpertGrid& grid) {
  ExpertMove move{.kind = kind, .worker = worker, .num_experts = static_cast<int64_t>(experts.size())};
  move.experts_l.resize(grid.is_moe_layer.size());
  for (const ExpertId id : experts) move.experts_l[static_cast<size_t>(id.layer)].push_back(id.expert);
  return move;
}

std::vector<bool> busy_workers(std::span<const ExpertMove> moves, int64_t num_workers) {
  std::vector<bool> busy_w(static_cast<size_t>(num_workers));
  for (const ExpertMove& move : moves) busy_w[static_cast<size_t>(move.worker)] = true;
  return busy_w;
}

// What is held once the drops under way have been heard of everywhere.
HeldExperts without_drops(HeldExperts held, std::span<const ExpertMove> moves) {
  for (const ExpertMove& move : moves)
    if (move.kind == ExpertMove::Kind::drop)
      for_each_expert(move, [&](ExpertId id) { held.take(move.worker, id); });
  return held;
}

class Planner {
 public:
  Planner(const HeldExperts& held, const HeldExperts& target, std::span<const ExpertMove> under_way,
          const MoveLimits& limits)
      : left_(without_drops(held, under_way)),
        target_(target),
        limits_(limits),
        moves_(under_way.begin(), under_way.end()),
        num_under_way_(under_way.size()),
        busy_w_(busy_workers(under_way, held.num_workers())),
        sends_w_(static_cast<size_t>(held.num_workers())) {
    for (const ExpertMove& move : moves_)
      if (move.from_worker) ++sends_w_[static_cast<size_t>(*move.from_worker)];
  }

  std::vector<ExpertMove> run() {
    for (int32_t w = 0; w < left_.num_workers(); ++w) add_to(w);
    for (int32_t w = 0; w < left_.num_workers(); ++w) drop_from(w);
    moves_.erase(moves_.begin(), moves_.begin() + static_cast<std::ptrdiff_t>(num_under_way_));
    return std::move(moves_);
  }

 private:
  void begin(ExpertMove move) {
    busy_w_[static_cast<size_t>(move.worker)] = true;
    if (move.from_worker) ++sends_w_[static_cast<size_t>(*move.from_worker)];
    moves_.push_back(std::move(move));
  }

  void add_to(int32_t w) {
    if (busy_w_[static_cast<size_t>(w)]) return;
    const int64_t room =
        std::min(limits_.batch, limits_.most_experts_w[static_cast<size_t>(w)] - left_.total(w));
    std::vector<ExpertId> wanted;
    target_.for_each_expert([&](ExpertId id) {
      const bool comes = target_.has(w, id) && !left_.has(w, id);
      if (comes && (left_.replicas(id) == 0 || source_of(id, w))) wanted.push_back(id);
    });
    if (wanted.empty() || room <= 0) return;
    const std::optional<int32_t> source = source_of(wanted.front(), w);
    std::vector<ExpertId> batch;
    for (const ExpertId id : wanted) {
      if (static_cast<int64_t>(batch.size()) == room) break;
      if (source ? left_.has(*source, id) : left_.replicas(id) == 0) batch.push_back(id);
    }
    ExpertMove move = make_move(ExpertMove::Kind::add, w, batch, target_.grid());
    move.from_worker = source;
    begin(std::move(move));
  }

  // None: nobody has it, or who has it is just getting something from `destination`; two workers that read
  // from each other would wait for each other.
  std::optional<int32_t> source_of(ExpertId id, int32_t destination) const {
    const auto reads_from = [&](int32_t w) {
      return std::any_of(moves_.begin(), moves_.end(), [&](const ExpertMove& move) {
        return move.worker == w && move.from_worker == destination;
      });
    };
    std::optional<int32_t> best;
    for (int32_t w = 0; w < left_.num_workers(); ++w)
      if (w != destination && left_.has(w, id) && !reads_from(w) &&
          (!best || sends_w_[static_cast<size_t>(w)] < sends_w_[static_cast<size_t>(*best)]))
        best = w;
    return best;
  }

  void drop_from(int32_t w) {
    if (busy_w_[static_cast<size_t>(w)]) return;
    std::vector<ExpertId> batch;
    target_.for_each_expert([&](ExpertId id) {
      if (static_cast<int64_t>(batch.size()) == limits_.batch || !left_.has(w, id) || target_.has(w, id) ||
          left_.replicas(id) <= target_.replicas(id) || is_being_sent(w, id))
        return;
      left_.take(w, id);
      batch.push_back(id);
    });
    if (!batch.empty()) begin(make_move(ExpertMove::Kind::drop, w, batch, target_.grid()));
  }

  bool is_being_sent(int32_t from, ExpertId id) const {
    return std::any_of(moves_.begin(), moves_.end(), [&](const ExpertMove& move) {
      return move.from_worker == from && contains(move, id);
    });
  }

  HeldExperts left_;  // announced, without what is being dropped
  const HeldExperts& target_;
  const MoveLimits& limits_;
  std::vector<ExpertMove> moves_;  // those under way, then the new ones
  const size_t num_under_way_;
  std::vector<bool> busy_w_;
  std::vector<int64_t> sends_w_;  // moves that come from it
};

class Repair {
 public:
  Repair(const HeldExperts& held, std::span<const ExpertMove> under_way, const MoveLimits& limits)
      : left_(without_drops(held, under_way)),
        coming_(left_),
        limits_(limits),
        busy_w_(busy_workers(under_way, held.num_workers())),
        experts_w_(busy_w_.size()) {
    for (const ExpertMove& move : under_way)
      if (move.kind == ExpertMove::Kind::drop)
        room_coming_ += move.num_experts;
      else
        for_each_expert(move, [&](ExpertId id) { coming_.put(move.worker, id); });
  }

  RepairPlan run(const std::vector<bool>& can_add_w, std::span<const double> speed_w) {
    RepairPlan plan;
    for (const ExpertId id : coming_.missing()) {
      const std::optional<int32_t> home = home_for(can_add_w, speed_w);
      if (!home) {
        ++plan.num_without_room;
        continue;
      }
      coming_.put(*home, id);
      experts_w_[static_cast<size_t>(*home)].push_back(id);
    }
    plan.num_without_room = std::max<int64_t>(0, plan.num_without_room - room_coming_);
    for (int32_t w = 0; w < left_.num_workers(); ++w) {
      const auto& experts = experts_w_[static_cast<size_t>(w)];
      if (busy_w_[static_cast<size_t>(w)] || !can_add_w[static_cast<size_t>(w)]) continue;
      const auto batch = std::min(experts.size(), static_cast<size_t>(limits_.batch));
      if (batch > 0)
        plan.moves.push_back(
            make_move(ExpertMove::Kind::add, w, std::span(experts).first(batch), left_.grid()));
      else
        make_room(w, plan);
    }
    return plan;
  }

 private:
  std::optional<int32_t> home_for(const std::vector<bool>& can_add_w, std::span<const double> speed_w) const {
    const auto time = [&](int32_t w) {
      return static_cast<double>(coming_.total(w) + 1) / speed_w[static_cast<size_t>(w)];
    };
    std::optional<int32_t> best;
    for (int32_t w = 0; w < left_.num_workers(); ++w)
      if (can_add_w[static_cast<size_t>(w)] &&
          coming_.total(w) < limits_.most_experts_w[static_cast<size_t>(w)] &&
          (!best || time(w) < time(*best)))
        best = w;
    return best;
  }

  // Drops replicas that others have too, for experts that have no room.
  void make_room(int32_t w, RepairPlan& plan) {
    std::vector<ExpertId> spare;
    left_.for_each_expert([&](ExpertId id) {
      if (static_cast<int64_t>(spare.size()) == std::min(plan.num_without_room, limits_.batch) ||
          !left_.has(w, id) || left_.replicas(id) < 2)
        return;
      left_.take(w, id);
      spare.push_back(id);
    });
    if (spare.empty()) return;
    plan.num_without_room -= static_cast<int64_t>(spare.size());
    plan.moves.push_back(make_move(ExpertMove::Kind::drop, w, spare, left_.grid()));
  }

  HeldExperts left_;    // announced, without what is being dropped
  HeldExperts coming_;  // and with what is on its way
  const MoveLimits& limits_;
  const std::vector<bool> busy_w_;
  std::vector<std::vector<ExpertId>> experts_w_;  // for which there is room
  int64_t room_coming_ = 0;                       // by drops under way
};

}  // namespace

std::vector<ExpertMove> next_moves(const HeldExperts& held, const HeldExperts& target,
                                   std::span<const ExpertMove> under_way, const MoveLimits& limits) {
  return Planner(held, target, under_way, limits).run();
}

RepairPlan plan_repair(const HeldExperts& held, const std::vector<bool>& can_add_w,
                       std::span<const double> speed_w, std::span<const ExpertMove> under_way,
                       const MoveLimits& limits) {
  return Repair(held, under_way, limits).run(can_add_w, speed_w);
}

}  // namespace guildhall
