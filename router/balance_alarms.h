// balance_alarms.h: alarms that are logged when they are raised and when they clear, not in between.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "router/balance_status.h"

namespace guildhall {

// One thread.
class BalanceAlarms {
 public:
  // What is wrong now, or nothing.
  void set(BalanceAlarm alarm, std::optional<std::string> message, Clock::time_point now);
  std::vector<RaisedAlarm> raised() const;

 private:
  std::array<std::optional<RaisedAlarm>, kNumBalanceAlarms> alarms_;
};

}  // namespace guildhall
