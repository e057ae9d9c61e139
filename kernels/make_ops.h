// make_ops.h: Ops for a device by its name in the configuration.
#pragma once

#include <string_view>

#include "kernels/ops.h"

namespace guildhall {

// `device` is auto (the first CUDA device if this build and this machine have one that can be used, else the
// CPU), cpu, cuda (the first) or cuda:N. The error says what is missing and what would work; who calls says
// whose key it is.
Result<std::unique_ptr<Ops>> make_ops(std::string_view device, TeamOptions team);

}  // namespace guildhall
