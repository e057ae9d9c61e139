// log_before_threads.cc: part of every test program. Has spdlog make its registry before there are threads:
// it does so on first use, behind a lock that a thread sanitizer cannot see in a library that was built
// without it.
#include <spdlog/spdlog.h>

namespace {

[[maybe_unused]] const bool made = spdlog::default_logger_raw() != nullptr;

}  // namespace
