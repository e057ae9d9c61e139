#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>

namespace guildhall {
namespace {

struct Unit {
  std::string_view name;
  double scale;
};

constexpr std::array<Unit, 10> kByteUnits{{{"", 1},
                                           {"B", 1},
                                           {"KiB", 1024.0},
                                           {"MiB", 1048576.0},
                                           {"GiB", 1073741824.0},
                                           {"TiB", 1099511627776.0},
                                           {"KB", 1e3},
                                           {"MB", 1e6},
                                           {"GB", 1e9},
                                           {"TB", 1e12}}};
constexpr std::array<Unit, 6> kTimeUnits{
    {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}}};

Result<int64_t> parse_scaled(std::string_view text, std::span<const Unit> units, std::string_view example) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (error == std::errc() && std::isfinite(number) && number >= 0) {
    for (const Unit& known : units) {
      if (known.name != unit) continue;
      const double scaled = number * known.scale;
      if (scaled < 9.2e18) return static_cast<int64_t>(std::llround(scaled));
    }
  }
  return Status{Code::invalid_argument, fmt::format("'{}' is not {}", text, example)};
}

}  // namespace

Result<int64_t> parse_bytes(std::string_view text) {
  return parse_scaled(text, kByteUnits, "a size such as 512MiB or 4GiB");
}

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  GH_ASSIGN(const int64_t ns, parse_scaled(text, kTimeUnits, "a time such as 250ms or 30s"));
  return std::chrono::nanoseconds(ns);
}

std::string format_bytes(int64_t bytes) {
  constexpr std::array<std::string_view, 5> names{"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < names.size()) value /= 1024, ++unit;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, names[unit]);
}

std::string format_duration(std::chrono::nanoseconds time) {
  const double ns = static_cast<double>(time.count());
  if (ns >= 1e9) return fmt::format("{:.2f} s", ns / 1e9);
  if (ns >= 1e6) return fmt::format("{:.4g} ms", ns / 1e6);
  if (ns >= 1e3) return fmt::format("{:.4g} us", ns / 1e3);
  return fmt::format("{} ns", time.count());
}

}  // namespace guildhall
