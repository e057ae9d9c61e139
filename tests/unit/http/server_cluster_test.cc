// server_cluster_test.cc: /v1/cluster/...: what balancing does, and the configuration read again.
#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using testing::HasSubstr;

class ClusterEndpoints : public HttpServerTest {};

TEST_F(ClusterEndpoints, BalanceTellsDecisionsMovesAndAlarms) {
  BalanceStatus status{.mode = "active", .policy = "eplb", .interval_s = 30, .window_steps = 1000};
  status.now = Clock::time_point(std::chrono::seconds(100));
  status.moves.push_back(
      {.worker = "w1", .source = "w0", .num_experts = 4, .bytes = 400, .elapsed_s = 1, .eta_s = 3});
  status.moves.push_back({.is_add = false, .worker = "w2", .num_experts = 1, .bytes = 100});
  DecisionRecord record{.number = 7, .policy = "eplb", .outcome = DecisionOutcome::moved};
  record.at = Clock::time_point(std::chrono::seconds(90));
  record.predicted = {
      .balancedness_before = 0.5, .balancedness_after = 0.9, .step_before_ns = 4e6, .step_after_ns = 3e6};
  record.actual = GainFigures{.step_before_ns = 10, .step_after_ns = 9};
  record.wait_before_ns = 2e6;
  record.num_moves = 5, record.moved_bytes = 500;
  record.reasons = {"it pays"};
  status.history = {record, {.number = 6}};
  status.alarms.push_back(
      {BalanceAlarm::moves_fail, "3 in a row", Clock::time_point(std::chrono::seconds(60))});
  options_.cluster.balance = [&] { return status; };
  start();
  RawClient client(port());
  auto body = client.get("/v1/cluster/balance").json();
  EXPECT_EQ(body["mode"], "active");
  EXPECT_EQ(body["moves"].at(0).at("source"), "w0");
  EXPECT_EQ(body["moves"].at(0).at("eta_s"), 3.0);
  EXPECT_EQ(body["moves"].at(1).at("kind"), "drop");
  const auto last = body["last_decision"];
  EXPECT_EQ(last.at("number"), 7);
  EXPECT_EQ(last.at("age_s"), 10.0);
  EXPECT_EQ(last.at("outcome"), "moved");
  EXPECT_EQ(last.at("predicted").at("gain"), 0.25);
  EXPECT_EQ(last.at("predicted").at("balancedness_after"), 0.9);
  EXPECT_DOUBLE_EQ(last.at("actual").at("gain").as_double(), 1 - 9.0 / 10);
  EXPECT_EQ(last.at("wait_per_step_before_s"), 0.002);
  EXPECT_TRUE(last.at("wait_per_step_after_s").is_null());
  EXPECT_EQ(last.at("reasons").at(0), "it pays");
  EXPECT_EQ(body["history"].as_array().size(), 2u);
  EXPECT_TRUE(body["history"].at(1).at("actual").is_null());
  EXPECT_EQ(body["alarms"].at(0).at("alarm"), "moves_fail");
  EXPECT_EQ(body["alarms"].at(0).at("since_s"), 40.0);
}

TEST_F(ClusterEndpoints, BalancingThatIsOffSaysWhy) {
  options_.cluster.balance = [] { return BalanceStatus{.why_off = "transport.kind is loopback"}; };
  start();
  auto body = RawClient(port()).get("/v1/cluster/balance").json();
  EXPECT_EQ(body["mode"], "off");
  EXPECT_EQ(body["why"], "transport.kind is loopback");
}

TEST_F(ClusterEndpoints, ReloadTellsWhatChangedOrWhatIsWrong) {
  Result<std::vector<ConfigChange>> answer = std::vector<ConfigChange>{{"balance.interval", "30s", "5s"}};
  options_.cluster.reload = [&] { return answer; };
  start();
  RawClient client(port());
  auto body = client.post("/v1/cluster/reload", "").json();
  EXPECT_EQ(body["changes"].at(0).at("key"), "balance.interval");
  EXPECT_EQ(body["changes"].at(0).at("from"), "30s");
  EXPECT_EQ(body["changes"].at(0).at("to"), "5s");
  answer = Status{Code::invalid_argument, "g.yaml:3: balance.interval: '5' is not a time"};
  RawReply refused = client.post("/v1/cluster/reload", "");
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("g.yaml:3: balance.interval"));
  EXPECT_THAT(refused.body, HasSubstr("invalid_configuration"));
  EXPECT_EQ(client.get("/v1/cluster/reload").status, 405);
}

TEST_F(ClusterEndpoints, NeedAKeyWhereOneIsAskedFor) {
  options_.api_keys = ApiKeys::parse("alice secret-of-enough-length\n", "keys.txt").value();
  bool called = false;
  options_.cluster.reload = [&]() -> Result<std::vector<ConfigChange>> {
    called = true;
    return std::vector<ConfigChange>{};
  };
  start();
  EXPECT_EQ(RawClient(port()).post("/v1/cluster/reload", "").status, 401);
  EXPECT_EQ(RawClient(port()).get("/v1/cluster/balance").status, 401);
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace guildhall
