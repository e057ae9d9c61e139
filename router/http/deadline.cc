#include "router/http/deadline.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"

namespace guildhall {

using std::chrono::milliseconds;

CallDeadline::CallDeadline(Clock::time_point begin, const CallLimits& limits,
                           std::optional<milliseconds> asked)
    : begin_(begin), limits_(limits), asked_(asked) {}

Clock::time_point CallDeadline::end_of(bool has_tokens) const {
  auto end = Clock::time_point::max();
  if (limits_.whole.count() > 0) end = std::min(end, begin_ + limits_.whole);
  if (asked_) end = std::min(end, begin_ + *asked_);
  if (!has_tokens && limits_.first_token.count() > 0) end = std::min(end, begin_ + limits_.first_token);
  return end;
}

milliseconds CallDeadline::wait_time(Clock::time_point now, bool has_tokens, milliseconds at_most) const {
  const Clock::time_point end = end_of(has_tokens);
  if (end == Clock::time_point::max()) return at_most;
  return std::clamp(std::chrono::ceil<milliseconds>(end - now), milliseconds(0), at_most);
}

bool CallDeadline::expired(Clock::time_point now, bool has_tokens) const { return now >= end_of(has_tokens); }

ApiError CallDeadline::error(Clock::time_point now) const {
  if (asked_ && now >= begin_ + *asked_)
    return {408, fmt::format("no token came within the request's timeout of {}", format_duration(*asked_)),
            "timeout", "request_timeout"};
  const bool is_first = limits_.first_token.count() > 0 && now >= begin_ + limits_.first_token;
  return {503,
          fmt::format("no token came within {} (router.http.{}); this server is busy, try again later",
                      format_duration(is_first ? limits_.first_token : limits_.whole),
                      is_first ? "first_token_timeout" : "request_timeout"),
          "", "deadline_exceeded"};
}

}  // namespace guildhall
