// mutations.h: every way we know to make a frame wrong, and what the receiver must call it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/exchange.h"

namespace guildhall {

struct Mutation {
  std::string name;
  std::function<void(std::vector<std::byte>& frame)> apply;  // to a frame with rows
  Code code = Code::data_loss;
};

// Frames that their receiver must refuse, ending the link they came on. The last, too large for the
// transports of this suite (max_frame_bytes), may be refused by the transport itself.
std::vector<Mutation> wrong_frames();
Mutation too_large_frame();

}  // namespace guildhall
