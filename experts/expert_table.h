// expert_table.h: the experts in a worker's memory, which may be dispatched here, now: layer x expert ->
// weights, or none. They come and go one by one between two runs, which end when the device is done with what
// they read; where experts are offloaded, within runs too (resident_experts.h). Owner: the serve thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "experts/experts_of_layer.h"
#include "model/expert_layout.h"
#include "model/spec.h"
#include "model/weights.h"

namespace guildhall {

struct PlacedExpert {
  int64_t layer = 0, expert = 0;
  ExpertPtr weights;
};

class ExpertTable {
 public:
  explicit ExpertTable(const ModelSpec& spec);

  void set(const ExpertStore& store);  // these and no others
  void add(std::span<const PlacedExpert> experts);
  // Those that were held: the memory goes with them.
  std::vector<PlacedExpert> remove(const ExpertsOfLayer& experts_l);

  ExpertPtr take(int64_t layer, int64_t expert);  // out of the table; nullptr: it was not there

  ExpertPtr find(int64_t layer, int64_t expert) const;     // nullptr: not held
  int64_t bytes_of(int64_t layer, int64_t expert) const {  // of one that is held
    return weights_le_[static_cast<size_t>(layer)][static_cast<size_t>(expert)]->memory.bytes();
  }
  // [E], empty views where none is held; [0] for a layer without experts.
  std::span<const ExpertWeightView> of_layer(int64_t layer) const;

 private:
  void put(int64_t layer, int64_t expert, ExpertPtr weights);

  std::vector<std::vector<ExpertPtr>> weights_le_;      // [L][E]; no experts: [L][0]
  std::vector<std::vector<ExpertWeightView>> view_le_;  // of those
};

}  // namespace guildhall
