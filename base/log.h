// log.h: one line per event, `event key=value ...`, to standard error. Never per token, never secrets.
// Any thread may log.
#pragma once

#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

namespace guildhall {

// Sets the level (trace, debug, info, warn, error) and the process name shown in each line.
// Returns false when the level is unknown. Called once, from main.
bool init_log(std::string_view process, std::string_view level);
bool set_log_level(std::string_view level);  // later, by any thread

// log_info("worker_ready", "worker={} experts={}", name, count)
template <class... Args>
void log_debug(std::string_view event, fmt::format_string<Args...> format, Args&&... args) {
  if (spdlog::should_log(spdlog::level::debug))
    spdlog::debug("{} {}", event, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(std::string_view event, fmt::format_string<Args...> format, Args&&... args) {
  spdlog::info("{} {}", event, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(std::string_view event, fmt::format_string<Args...> format, Args&&... args) {
  spdlog::warn("{} {}", event, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(std::string_view event, fmt::format_string<Args...> format, Args&&... args) {
  spdlog::error("{} {}", event, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace guildhall
