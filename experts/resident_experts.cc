#include "experts/resident_experts.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace guildhall {

ResidentExperts::ResidentExperts(const ModelSpec& spec, ExpertTable& table, std::shared_ptr<ColdExperts> cold)
    : table_(table),
      num_slots_(cold->num_slots()),
      runs_l_(spec.is_moe_layer.size()),
      bringer_(std::move(cold)) {
  for (const bool is_moe : spec.is_moe_layer)
    expert_le_.emplace_back(is_moe ? static_cast<size_t>(spec.moe.num_experts) : 0);
}

void ResidentExperts::hold(const ExpertsOfLayer& experts_l) {
  for (size_t layer = 0; layer < experts_l.size(); ++layer)
    for (const int32_t expert : experts_l[layer]) at({static_cast<int64_t>(layer), expert}).is_held = true;
}

// One that is on its way is thrown away when it comes.
void ResidentExperts::drop(const ExpertsOfLayer& experts_l) {
  GH_CHECK(!is_running_);
  for (size_t layer = 0; layer < experts_l.size(); ++layer)
    for (const int32_t expert : experts_l[layer]) {
      const ExpertKey key{static_cast<int64_t>(layer), expert};
      at(key).is_held = false;
      if (const auto it = std::ranges::find(resident_, key); it != resident_.end())
        remove(static_cast<size_t>(it - resident_.begin()));
    }
}

bool ResidentExperts::holds(int64_t layer, int64_t expert) const {
  if (layer < 0 || static_cast<size_t>(layer) >= expert_le_.size()) return false;
  const auto& expert_e = expert_le_[static_cast<size_t>(layer)];
  return expert >= 0 && static_cast<size_t>(expert) < expert_e.size() &&
         expert_e[static_cast<size_t>(expert)].is_held;
}

// ---- runs

void ResidentExperts::begin_run(int64_t layer, std::span<const int32_t> offset_e) {
  GH_CHECK(!is_running_);
  is_running_ = true;
  layer_ = layer;
  ++num_runs_, ++runs_l_[static_cast<size_t>(layer)];
  std::erase_if(expected_, [&](const Expected& e) { return e.layer == layer; });
  take_brought();
  needed_.clear(), missing_.clear();
  given_ = {};
  for (size_t e = 0; e + 1 < offset_e.size(); ++e)
    if (offset_e[e + 1] > offset_e[e]) needed_.push_back(e);
  num_pending_ = needed_.size();
  for (const size_t e : needed_) need({layer, static_cast<int64_t>(e)});
}

void ResidentExperts::need(ExpertKey key) {
  Expert& expert = at(key);
  expert.heat = static_cast<float>(heat(key)) + 1;
  expert.heat_run = runs_l_[static_cast<size_t>(key.layer)];
  expert.is_needed = true;
  ++(expert.place == Place::resident ? sums_.hits : sums_.waits);
  if (expert.place == Place::coming) bringer_.hurry(key);
  if (!std::exchange(expert.is_prefetched, false)) return;
  ++sums_.prefetched_used;
  std::erase(prefetched_, key);
}

ExpertRange ResidentExperts::next() {
  finish_range();
  while (true) {
    take_brought();
    if (ask_for_needed()) prefetch();
    if (num_pending_ == 0) {
      end_run();
      return {};
    }
    given_ = first_ready();
    if (!given_.empty()) return given_;
    const int64_t begin = now_ns();
    bringer_.wait();
    sums_.wait_ns += static_cast<uint64_t>(now_ns() - begin);
  }
}

void ResidentExperts::finish_range() {
  for (size_t e = given_.begin; e < given_.end; ++e) {
    Expert& expert = at({layer_, static_cast<int64_t>(e)});
    if (std::exchange(expert.is_needed, false)) --num_pending_;
  }
  has_changed_ |= !given_.empty();
  given_ = {};
}

// Needed ones that follow on one another, with none between them that has rows and is not among them.
ExpertRange ResidentExperts::first_ready() const {
  ExpertRange range;
  for (const size_t e : needed_) {
    const Expert& expert = at({layer_, static_cast<int64_t>(e)});
    const bool is_ready = expert.is_needed && expert.place == Place::resident;
    if (is_ready && range.empty()) range.begin = e;
    if (is_ready) range.end = e + 1;
    if (!is_ready && !range.empty()) break;
  }
  return range;
}

// False: some must wait for room.
bool ResidentExperts::ask_for_needed() {
  for (const size_t e : needed_) {
    const ExpertKey key{layer_, static_cast<int64_t>(e)};
    if (!at(key).is_needed || at(key).place != Place::cold) continue;
    if (!make_room()) return false;
    ask(key, ExpertBringer::Urgency::demanded);
  }
  return true;
}

bool ResidentExperts::make_room() {
  if (num_taken() < num_slots_) return true;
  if (const auto idx = coldest(/*spare_guarded=*/true)) return evict(*idx), true;
  if (const auto key = bringer_.withdraw()) {
    --num_coming_;
    at(*key).place = Place::cold;
    if (at(*key).is_prefetched) end_prefetch(*key);
    return true;
  }
  if (const auto idx = coldest(/*spare_guarded=*/false)) return evict(*idx), true;
  return false;
}

void ResidentExperts::end_run() {
  is_running_ = false;
  has_changed_ = true;
  for (Expert& expert : expert_le_[static_cast<size_t>(layer_)]) expert.guarded_until = 0;
  const std::vector<ExpertKey> prefetched = prefetched_;
  for (const ExpertKey key : prefetched)
    if (at(key).guarded_until < num_runs_) end_prefetch(key);
}

// ---- what comes

void ResidentExperts::take_brought() {
  for (ExpertBringer::Brought& brought : bringer_.take()) {
    --num_coming_;
    has_changed_ = true;
    at(brought.key).place = Place::cold;
    if (brought.weights.has_error())
      fail(brought.key, brought.weights.error());
    else
      put(brought.key, *std::move(brought.weights));
  }
}

void ResidentExperts::put(ExpertKey key, ExpertPtr weights) {
  const int64_t bytes = weights->memory.bytes();
  sums_.loaded_bytes += static_cast<uint64_t>(bytes);
  Expert& expert = at(key);
  if (!expert.is_held) {
    if (expert.is_prefetched) end_prefetch(key);
    return;
  }
  expert.place = Place::resident;
  const PlacedExpert placed{key.layer, key.expert, std::move(weights)};
  table_.add({&placed, 1});
  resident_.push_back(key);
  ++sums_.resident_experts;
  sums_.resident_bytes += static_cast<uint64_t>(bytes);
}

void ResidentExperts::fail(ExpertKey key, const Status& why) {
  ++sums_.load_errors;
  log_warn("expert_not_read", "layer={} expert={} reason=\"{}\"", key.layer, key.expert, to_string(why));
  if (at(key).is_prefetched) end_prefetch(key);
  if (!std::exchange(at(key).is_needed, false)) return;
  --num_pending_;
  missing_.push_back({key.expert, why});
}

// ---- predictions

void ResidentExperts::expect(int64_t layer, std::span<const uint16_t> experts) {
  if (layer < 0 || static_cast<size_t>(layer) >= expert_le_.size()) return;
  auto entry = std::ranges::find(expected_, layer, &Expected::layer);
  if (entry == expected_.end()) entry = expected_.insert(entry, {layer, {}});
  for (const uint16_t expert : experts)
    if (holds(layer, expert) && std::ranges::find(entry->experts, expert) == entry->experts.end())
      entry->experts.push_back(expert);
  has_changed_ = true;
}

void ResidentExperts::advance() {
  take_brought();
  prefetch();
}

void ResidentExperts::prefetch() {
  if (!std::exchange(has_changed_, false)) return;
  for (Expected& expected : expected_)
    std::erase_if(expected.experts, [&](uint16_t e) { return is_seen_to({expected.layer, e}); });
  std::erase_if(expected_, [](const Expected& e) { return e.experts.empty(); });
}

// An expected expert: in memory, or asked for. False: there is no slot for it now.
bool ResidentExperts::is_seen_to(ExpertKey key) {
  Expert& expert = at(key);
  if (!expert.is_held) return true;
  if (expert.place == Place::cold) {
    if (static_cast<int64_t>(prefetched_.size()) >= num_slots_ / 2) return false;
    if (num_taken() >= num_slots_) {
      const auto idx = coldest(/*spare_guarded=*/true);
      if (!idx || heat(resident_[*idx]) >= heat(key) + 1) return false;
      evict(*idx);
    }
    expert.is_prefetched = true;
    prefetched_.push_back(key);
    ask(key, ExpertBringer::Urgency::predicted);
  }
  expert.guarded_until = num_runs_ + kPatience;
  return true;
}

// The run it was brought in for is over.
void ResidentExperts::end_prefetch(ExpertKey key) {
  at(key).is_prefetched = false;
  at(key).guarded_until = 0;
  std::erase(prefetched_, key);
  ++sums_.prefetched_unused;
}

// ---- slots

void ResidentExperts::ask(ExpertKey key, ExpertBringer::Urgency urgency) {
  at(key).place = Place::coming;
  ++num_coming_;
  bringer_.ask(key, urgency);
}

double ResidentExperts::heat(ExpertKey key) const {
  const Expert& expert = at(key);
  const uint64_t runs = runs_l_[static_cast<size_t>(key.layer)] - expert.heat_run;
  return expert.heat * std::exp2(-static_cast<double>(runs) / kHalfLife);
}

std::optional<size_t> ResidentExperts::coldest(bool spare_guarded) const {
  std::optional<size_t> found;
  double least = 0;
  for (size_t i = 0; i < resident_.size(); ++i) {
    const Expert& expert = at(resident_[i]);
    if (expert.is_needed || (spare_guarded && expert.guarded_until >= num_runs_)) continue;
    const double its = heat(resident_[i]);
    if (found && its >= least) continue;
    found = i, least = its;
  }
  return found;
}

void ResidentExperts::evict(size_t resident_idx) {
  ++sums_.evictions;
  remove(resident_idx);
}

void ResidentExperts::remove(size_t resident_idx) {
  const ExpertKey key = resident_[resident_idx];
  std::swap(resident_[resident_idx], resident_.back());
  resident_.pop_back();
  at(key).place = Place::cold;
  if (at(key).is_prefetched) end_prefetch(key);
  const ExpertPtr weights = table_.take(key.layer, key.expert);
  --sums_.resident_experts;
  sums_.resident_bytes -= static_cast<uint64_t>(weights->memory.bytes());
}

}  // namespace guildhall
