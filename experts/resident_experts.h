// resident_experts.h: of the experts an offloading worker holds, those in its device's memory. A run needs
// some of one layer: those that are there are given out first, the others as they come, each when it has
// room. So a run computes while its next experts are read, and what is in memory, or on its way there, never
// is more than the slots.
//
// Eviction: the coldest goes, by uses that count half after kHalfLife runs of their layer. Not the one
// longest unused: layers come round, so that would always be the one needed soonest. Never one that the run
// under way still needs.
//
// Prediction: experts that the next run of a layer may need (expect) are brought in after what runs wait for.
// At most half of the slots are for them. They take free slots, and those of experts colder than they will be
// if they are used; until their layer has run, or kPatience runs, no other prediction takes their slots.
//
// Owner: the serve thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "experts/expert_bringer.h"
#include "experts/expert_table.h"
#include "model/spec.h"

namespace guildhall {

// Since the start, but for what is resident now.
struct ResidentSums {
  uint64_t hits = 0, waits = 0;  // experts a run needed that were there when it began, and that were not
  uint64_t wait_ns = 0;          // that runs stood still
  uint64_t loaded_bytes = 0;
  // Brought in by prediction: needed by the next run of their layer, or not.
  uint64_t prefetched_used = 0, prefetched_unused = 0;
  uint64_t evictions = 0, load_errors = 0;
  uint64_t resident_experts = 0, resident_bytes = 0;
};

// Consecutive experts of a layer.
struct ExpertRange {
  size_t begin = 0, end = 0;
  bool empty() const { return begin == end; }
};

class ResidentExperts {
 public:
  static constexpr double kHalfLife = 32;
  static constexpr uint64_t kPatience = 8;

  // In `table`, which is borrowed, are those that are resident: nobody else puts any there.
  ResidentExperts(const ModelSpec& spec, ExpertTable& table, std::shared_ptr<ColdExperts> cold);

  void hold(const ExpertsOfLayer& experts_l);
  void drop(const ExpertsOfLayer& experts_l);  // between runs
  bool holds(int64_t layer, int64_t expert) const;

  // A run of `layer` begins, which needs the experts e with offset_e[e] < offset_e[e + 1].
  void begin_run(int64_t layer, std::span<const int32_t> offset_e);
  // The next of them: all that have rows between begin and end are resident until the next call. Waits while
  // none is there; empty: that was all.
  ExpertRange next();
  // Of the last run: experts that could not be brought in, which next() left out.
  struct Missing {
    int64_t expert;
    Status why;
  };
  std::span<const Missing> missing() const { return missing_; }

  // The next run of `layer` may need these, the likeliest first. Those not held are passed over.
  void expect(int64_t layer, std::span<const uint16_t> experts);
  // Takes in what has come, and asks for what is expected, as far as it may. Also happens within runs.
  void advance();

  const ResidentSums& sums() const { return sums_; }

 private:
  enum class Place : uint8_t { cold, coming, resident };
  struct Expert {
    bool is_held = false;
    bool is_needed = false;      // by the run under way, which has not computed it
    bool is_prefetched = false;  // and no run has needed it yet
    Place place = Place::cold;
    float heat = 0;  // its uses, decayed, as of its layer's run heat_run
    uint64_t heat_run = 0;
    uint64_t guarded_until = 0;  // run; of those that are expected
  };
  struct Expected {
    int64_t layer;
    std::vector<uint16_t> experts;  // that no slot was found for yet
  };

  Expert& at(ExpertKey key) {
    return expert_le_[static_cast<size_t>(key.layer)][static_cast<size_t>(key.expert)];
  }
  const Expert& at(ExpertKey key) const {
    return expert_le_[static_cast<size_t>(key.layer)][static_cast<size_t>(key.expert)];
  }
  double heat(ExpertKey key) const;

  void need(ExpertKey key);
  void finish_range();
  ExpertRange first_ready() const;
  bool ask_for_needed();
  bool make_room();
  void end_run();

  void take_brought();
  void put(ExpertKey key, ExpertPtr weights);
  void fail(ExpertKey key, const Status& why);

  void prefetch();
  bool is_seen_to(ExpertKey key);
  void end_prefetch(ExpertKey key);

  void ask(ExpertKey key, ExpertBringer::Urgency urgency);
  std::optional<size_t> coldest(bool spare_guarded) const;
  void evict(size_t resident_idx);
  void remove(size_t resident_idx);
  int64_t num_taken() const { return static_cast<int64_t>(resident_.size()) + num_coming_; }

  ExpertTable& table_;
  const int64_t num_slots_;
  std::vector<std::vector<Expert>> expert_le_;  // [L][E]; no experts: [L][0]
  std::vector<uint64_t> runs_l_;
  uint64_t num_runs_ = 0;
  std::vector<ExpertKey> resident_;  // in any order
  int64_t num_coming_ = 0;
  std::vector<ExpertKey> prefetched_;  // is_prefetched: resident or coming
  std::vector<Expected> expected_;     // one entry a layer
  bool has_changed_ = false;           // since expected_ was looked at last
  ResidentSums sums_;
  // The run under way.
  bool is_running_ = false;
  int64_t layer_ = 0;
  std::vector<size_t> needed_;  // experts that have rows, ascending
  size_t num_pending_ = 0;      // of those: is_needed
  ExpertRange given_;
  std::vector<Missing> missing_;
  ExpertBringer bringer_;
};

}  // namespace guildhall
