#include "router/http/cluster_json.h"

#include <chrono>

namespace guildhall {
namespace {

namespace json = boost::json;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

json::object gain_object(const GainFigures& figures) {
  return {{"gain", figures.gain()},
          {"balancedness_before", figures.balancedness_before},
          {"balancedness_after", figures.balancedness_after},
          {"step_before_s", figures.step_before_ns * 1e-9},
          {"step_after_s", figures.step_after_ns * 1e-9}};
}

json::value seconds_or_null(const std::optional<double>& ns) {
  return ns ? json::value(*ns * 1e-9) : json::value(nullptr);
}

json::object decision_object(const DecisionRecord& record, Clock::time_point now) {
  json::object object;
  object["number"] = record.number;
  object["age_s"] = seconds(now - record.at);
  object["policy"] = record.policy;
  object["outcome"] = kDecisionOutcomeNames[static_cast<size_t>(record.outcome)];
  object["predicted"] = gain_object(record.predicted);
  object["actual"] = record.actual ? json::value(gain_object(*record.actual)) : json::value(nullptr);
  object["wait_per_step_before_s"] = seconds_or_null(record.wait_before_ns);
  object["wait_per_step_after_s"] = seconds_or_null(record.wait_after_ns);
  object["experts"] = record.num_moves;
  object["bytes"] = record.moved_bytes;
  object["moving_s"] = record.moving_s;
  object["reasons"] = json::array(record.reasons.begin(), record.reasons.end());
  return object;
}

json::object move_object(const MoveStatus& move) {
  json::object object;
  object["kind"] = move.is_add ? "add" : "drop";
  object["worker"] = move.worker;
  if (move.is_add) object["source"] = move.source;
  object["experts"] = move.num_experts;
  object["bytes"] = move.bytes;
  object["elapsed_s"] = move.elapsed_s;
  if (move.is_add) object["eta_s"] = move.eta_s;
  return object;
}

}  // namespace

json::object balance_object(const BalanceStatus& status) {
  json::object body;
  body["mode"] = status.mode;
  if (status.mode == "off") {
    body["why"] = status.why_off;
    return body;
  }
  body["policy"] = status.policy;
  body["interval_s"] = status.interval_s;
  body["window_steps"] = status.window_steps;
  body["next_decision_s"] = status.next_decision_s;
  json::array moves, history, alarms;
  for (const MoveStatus& move : status.moves) moves.push_back(move_object(move));
  for (const DecisionRecord& record : status.history) history.push_back(decision_object(record, status.now));
  for (const RaisedAlarm& raised : status.alarms)
    alarms.push_back(json::object{{"alarm", kBalanceAlarmNames[static_cast<size_t>(raised.alarm)]},
                                  {"message", raised.message},
                                  {"since_s", seconds(status.now - raised.since)}});
  body["alarms"] = std::move(alarms);
  body["missing_experts"] = status.num_missing;
  body["moves"] = std::move(moves);
  body["last_decision"] = history.empty() ? json::value(nullptr) : history.front();
  body["history"] = std::move(history);
  return body;
}

json::object reload_object(const std::vector<ConfigChange>& changes) {
  json::array list;
  for (const ConfigChange& change : changes)
    list.push_back(json::object{{"key", change.key}, {"from", change.from}, {"to", change.to}});
  return {{"changes", std::move(list)}};
}

}  // namespace guildhall
