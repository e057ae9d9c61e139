// hello_check.h: whether who greets a worker can work with it.
#pragma once

#include "base/status.h"
#include "experts/control_service.h"
#include "model/spec.h"

namespace guildhall {

namespace control {
class Hello;
}

// The error names what does not fit, at both ends.
Result<void> check_hello(const control::Hello& hello, const ControlServiceOptions& options,
                         const ModelSpec& spec);

}  // namespace guildhall
