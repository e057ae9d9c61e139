// holdings.h: what a worker tells its routers that it holds, and the experts it serves beyond that: those
// that are about to go (retiring) are no longer announced, but kept until nobody asks for them. Owner: the io
// thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "experts/experts_of_layer.h"
#include "model/spec.h"
#include "proto/control.pb.h"

namespace guildhall {

// Experts as a control message lists them. The error begins with `what` and names the first one that the
// model does not have, or that is out of order.
Result<ExpertsOfLayer> read_experts(const google::protobuf::RepeatedPtrField<control::LayerExperts>& layers,
                                    const ModelSpec& spec, const std::string& what);

class ExpertHoldings {
 public:
  enum class State : uint8_t { absent, held, retiring };

  explicit ExpertHoldings(const ModelSpec& spec);

  State state(size_t layer, int32_t expert) const { return state_le_[layer][static_cast<size_t>(expert)]; }
  void set(const ExpertsOfLayer& experts_l, State state);
  // Those of `experts_l` that are in this state.
  ExpertsOfLayer among(const ExpertsOfLayer& experts_l, State state) const;
  int64_t num_resident() const;  // held or retiring

  uint32_t version() const { return version_; }  // of the last announcement; 0: none yet
  void next_version() { ++version_; }
  control::Holdings message() const;  // what is held, as this version announces it

 private:
  std::vector<std::vector<State>> state_le_;  // [L][E]; no experts: [L][0]
  uint32_t version_ = 0;
};

}  // namespace guildhall
