// listen_check.h: whether a process about to be started will get its address. Without this look, `guildhall
// up` could take another cluster that already answers there for its own.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

// `key` is where the configuration gives the address. Errors name both: port 0, a port in use, no permission.
// A host that cannot be looked up here is left for the process itself to report.
Result<void> check_can_listen(std::string_view key, const std::string& address);

}  // namespace guildhall
