// deadline.h: how long one call may take: what the server allows (router.http.first_token_timeout and
// request_timeout) and what the client asked for (`timeout`).
#pragma once

#include <chrono>
#include <optional>

#include "base/clock.h"
#include "router/http/errors.h"

namespace guildhall {

struct CallLimits {
  std::chrono::milliseconds first_token{0};  // 0: none
  std::chrono::milliseconds whole{0};        // 0: none
};

class CallDeadline {
 public:
  // `asked`: by the client, for the whole call; it can shorten the server's limit only.
  CallDeadline(Clock::time_point begin, const CallLimits& limits,
               std::optional<std::chrono::milliseconds> asked);

  // How long to wait at most, and no longer than `at_most`, until expired() may have become true.
  std::chrono::milliseconds wait_time(Clock::time_point now, bool has_tokens,
                                      std::chrono::milliseconds at_most) const;
  bool expired(Clock::time_point now, bool has_tokens) const;
  // What a call without tokens is answered: 408 where the client's own timeout is over, else 503.
  ApiError error(Clock::time_point now) const;

 private:
  Clock::time_point end_of(bool has_tokens) const;

  const Clock::time_point begin_;
  const CallLimits limits_;
  const std::optional<std::chrono::milliseconds> asked_;
};

}  // namespace guildhall
