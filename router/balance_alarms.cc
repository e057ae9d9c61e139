#include "router/balance_alarms.h"

#include "base/log.h"
#include "base/units.h"

namespace guildhall {

void BalanceAlarms::set(BalanceAlarm alarm, std::optional<std::string> message, Clock::time_point now) {
  const auto at = static_cast<size_t>(alarm);
  std::optional<RaisedAlarm>& raised = alarms_[at];
  if (!message) {
    if (raised)
      log_info("balance_alarm_cleared", "alarm={} time=\"{}\"", kBalanceAlarmNames[at],
               format_duration(now - raised->since));
    raised.reset();
    return;
  }
  if (!raised) {
    log_warn("balance_alarm", "alarm={} reason=\"{}\"", kBalanceAlarmNames[at], *message);
    raised = RaisedAlarm{.alarm = alarm, .since = now};
  }
  raised->message = *std::move(message);
}

std::vector<RaisedAlarm> BalanceAlarms::raised() const {
  std::vector<RaisedAlarm> all;
  for (const auto& alarm : alarms_)
    if (alarm) all.push_back(*alarm);
  return all;
}

}  // namespace guildhall
