// units.h: sizes as `4GiB` and times as `250ms`, read from configuration and printed to people.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace guildhall {

// "512", "64KiB", "8MiB", "4GiB", "1TiB" (also KB/MB/GB, decimal). Fractions allowed: "1.5GiB".
Result<int64_t> parse_bytes(std::string_view text);

// "250ms", "30s", "5m", "100us", "2h". A unit is required.
Result<std::chrono::nanoseconds> parse_duration(std::string_view text);

std::string format_bytes(int64_t bytes);                     // "3.3 GiB"
std::string format_duration(std::chrono::nanoseconds time);  // "1.25 s", "250 ms"

}  // namespace guildhall
