// experts_test.cc: /v1/cluster/experts of one router and of several, and /v1/cluster/trace.
#include <cstdlib>
#include <filesystem>
#include <future>

#include "tests/unit/http/server_fixture.h"
#include "tests/unit/router/routing_fixture.h"

namespace guildhall {
namespace {

namespace json = boost::json;
using testing::HasSubstr;

constexpr std::string_view kExperts = "/v1/cluster/experts";
constexpr std::string_view kTrace = "/v1/cluster/trace";

// A router whose experts the test plays.
struct Node {
  explicit Node(const std::string& name, RoutingTraceOptions trace = {}) : monitor(options(name, trace)) {
    http.listen = "127.0.0.1:0";
    http.model_name = "m";
    http.max_model_len = 1024;
  }
  static ExpertMonitorOptions options(const std::string& name, const RoutingTraceOptions& trace) {
    ExpertMonitorOptions options{
        .router = name,
        .routing = routing_fixture_options(),
        .speed_w = {1, 1},
        .expected = {.pair_ns = 1, .activation_ns = 100},
        .workers = [] {
          return std::vector<WorkerView>{
              {.name = "w0",
               .state = "ready",
               .resident_bytes = 8000,
               .experts_l = {{}, {0, 1, 2, 3}, {0, 1, 2, 3}, {}},
               .offload = OffloadSums{.hits = 7, .wait_ns = 2'500'000, .resident_experts = 3}},
              {.name = "w1", .state = "lost", .experts_l = {{}, {4, 5, 6, 7}, {4, 5, 6, 7}, {}}}};
        }};
    options.routing.trace = trace;
    return options;
  }
  void serve() {
    server = HttpServer::start(http, status).value();
    server->attach(engine, tiny_tokenizer(), {}, nullptr, &monitor);
  }
  RawReply get(const std::string& query = "") const {
    return RawClient(server->port()).get(std::string(kExperts) + query);
  }
  void step() { commit_decode(routing); }

  HttpServerOptions http;
  FakeStatus status;
  FakeEngine engine;
  ExpertMonitor monitor;
  StepRouting routing{monitor.recorder()};
  std::unique_ptr<HttpServer> server;  // destroyed first
};

TEST(Experts, AreToldByLayerExpertAndWorker) {
  Node node("r0");
  node.serve();
  for (int i = 0; i < 3; ++i) node.step();
  const RawReply reply = node.get();
  ASSERT_EQ(reply.status, 200);
  const json::object body = reply.json();
  EXPECT_EQ(body.at("model"), "m");
  EXPECT_EQ(json::serialize(body.at("routers")), R"(["r0"])");
  EXPECT_EQ(body.at("missing").as_array().size(), 0u);
  EXPECT_EQ(body.at("window").at("steps"), 3);
  EXPECT_EQ(body.at("window").at("limit"), 1000);
  ASSERT_EQ(body.at("layers").as_array().size(), 2u);
  const json::object& layer = body.at("layers").at(1).as_object();
  EXPECT_EQ(layer.at("layer"), 2);
  EXPECT_EQ(layer.at("decode_tokens"), 6);
  ASSERT_EQ(layer.at("experts").as_array().size(), 8u);
  const json::object& expert = layer.at("experts").at(3).as_object();
  EXPECT_EQ(expert.at("expert"), 3);
  EXPECT_EQ(expert.at("prefill_tokens"), 0);
  EXPECT_EQ(expert.at("decode_tokens"), 3);
  EXPECT_EQ(expert.at("activations"), 3);
  EXPECT_EQ(expert.at("bytes"), 3000);
  EXPECT_TRUE(expert.at("attributed_ms").is_null());
  EXPECT_EQ(json::serialize(expert.at("workers")), R"(["w0"])");
  const json::object& worker = body.at("workers").at(0).as_object();
  EXPECT_EQ(worker.at("name"), "w0");
  EXPECT_EQ(worker.at("experts"), 8);
  EXPECT_EQ(worker.at("memory_bytes"), 8000);
  EXPECT_EQ(worker.at("offload").at("hits"), 7);
  EXPECT_EQ(worker.at("offload").at("waits"), 0);
  EXPECT_EQ(worker.at("offload").at("wait_ms"), 2.5);
  EXPECT_EQ(worker.at("offload").at("resident_experts"), 3);
  EXPECT_TRUE(body.at("workers").at(1).at("offload").is_null());
  EXPECT_EQ(body.at("workers").at(1).at("state"), "lost");
  EXPECT_EQ(body.at("trace").at("state"), "none");
}

TEST(Experts, MayBeAskedForInPart) {
  Node node("r0");
  node.serve();
  node.step();
  const json::object summary = node.get("?format=summary").json();
  EXPECT_EQ(summary.at("layers").as_array().size(), 2u);
  EXPECT_FALSE(summary.at("layers").at(0).as_object().contains("experts"));
  for (const char* query : {"?layers=2", "?layers=2-70&scope=router", "?scope=router&layers=2-2"}) {
    const json::array layers = node.get(query).json().at("layers").as_array();
    ASSERT_EQ(layers.size(), 1u) << query;
    EXPECT_EQ(layers[0].at("layer"), 2);
  }
  EXPECT_EQ(node.get("?layers=3-9").json().at("layers").as_array().size(), 0u);
}

TEST(Experts, AQueryThatIsNoneIsRefusedWithWhatItMayBe) {
  Node node("r0");
  node.serve();
  for (const char* query :
       {"?layers=", "?layers=a", "?layers=3-2", "?layers=-1", "?layers=1-", "?layers=99999999999999999999",
        "?format=xml", "?scope=all", "?what=1", "?layers", "?%20"}) {
    const RawReply reply = node.get(query);
    EXPECT_EQ(reply.status, 400) << query;
    EXPECT_EQ(reply.error().at("code"), "invalid_value") << query;
  }
  EXPECT_THAT(std::string(node.get("?scope=all").error().at("message").as_string()),
              HasSubstr("cluster or router"));
  EXPECT_EQ(RawClient(node.server->port()).post(kExperts, "{}").status, 405);
}

TEST(Experts, BeforeTheModelIsThereTheyAreNotTold) {
  Node node("r0");
  node.server = HttpServer::start(node.http, node.status).value();
  EXPECT_EQ(node.get().status, 503);
  EXPECT_EQ(RawClient(node.server->port()).post(kTrace, R"({"action": "stop"})").status, 503);
}

TEST(Experts, OfSeveralRoutersAreSummedAndTheSilentOnesNamed) {
  Node first("r0"), second("r1");
  second.serve();
  Node closed("r2");
  closed.serve();
  first.http.routers = {{"r1", {"127.0.0.1", second.server->port()}},
                        {"r2", {"127.0.0.1", closed.server->port()}}};
  closed.server.reset();
  first.serve();
  first.step();
  for (int i = 0; i < 4; ++i) second.step();
  const json::object all = first.get().json();
  EXPECT_EQ(json::serialize(all.at("routers")), R"(["r0","r1"])");
  EXPECT_EQ(json::serialize(all.at("missing")), R"(["r2"])");
  EXPECT_EQ(all.at("window").at("steps"), 5);
  EXPECT_EQ(all.at("layers").at(0).at("experts").at(0).at("decode_tokens"), 5);
  const json::object own = first.get("?scope=router").json();
  EXPECT_EQ(own.at("window").at("steps"), 1);
  EXPECT_EQ(json::serialize(own.at("routers")), R"(["r0"])");
}

TEST(Experts, ARouterOfAnotherModelIsNotSummed) {
  Node first("r0");
  HttpServerOptions plain = first.http;
  FakeStatus status;
  const auto other = HttpServer::start(plain, status).value();  // answers 503
  first.http.routers = {{"r1", {"127.0.0.1", other->port()}}};
  first.serve();
  EXPECT_EQ(json::serialize(first.get().json().at("missing")), R"(["r1"])");
}

TEST(Experts, NeedAKeyAndRoutersHaveTheirs) {
  const std::string keys = "alice 0123456789abcdef\nbob fedcba9876543210\n";
  const std::string turned = "# the same\nbob fedcba9876543210\nalice 0123456789abcdef\n";
  Node first("r0"), second("r1"), third("r2");
  first.http.api_keys = ApiKeys::parse(keys, "k").value();
  second.http.api_keys = ApiKeys::parse(turned, "k").value();
  third.http.api_keys = ApiKeys::parse("eve 0123456789abcdef\n", "k").value();
  second.serve();
  third.serve();
  first.http.routers = {{"r1", {"127.0.0.1", second.server->port()}},
                        {"r2", {"127.0.0.1", third.server->port()}}};
  first.serve();
  EXPECT_EQ(first.get().status, 401);
  EXPECT_EQ(RawClient(first.server->port()).post(kTrace, R"({"action": "stop"})").status, 401);
  RawClient client(first.server->port());
  client.send(
      "GET /v1/cluster/experts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer 0123456789abcdef\r\n\r\n");
  const RawReply reply = client.read_reply();
  ASSERT_EQ(reply.status, 200);
  EXPECT_EQ(json::serialize(reply.json().at("routers")), R"(["r0","r1"])");
  EXPECT_EQ(json::serialize(reply.json().at("missing")), R"(["r2"])") << "its keys are others";
  // A router's key opens nothing else.
  const std::string key = first.http.api_keys->router_authorization();
  for (const auto& [path, status] :
       {std::pair{"/v1/cluster/experts?scope=router", 200}, {"/v1/models", 401}}) {
    RawClient router(first.server->port());
    router.send(std::string("GET ") + path + " HTTP/1.1\r\nhost: x\r\nauthorization: " + key + "\r\n\r\n");
    EXPECT_EQ(router.read_reply().status, status) << path;
  }
}

TEST(Experts, TheServerAsksForOthersToo) {
  Node first("r0"), second("r1");
  second.serve();
  second.step();
  first.http.routers = {{"r1", {"127.0.0.1", second.server->port()}}};
  first.serve();
  std::promise<std::vector<RouterAnswer>> answered;
  first.server->ask_loads([&](std::vector<RouterAnswer> answers) { answered.set_value(std::move(answers)); });
  const std::vector<RouterAnswer> answers = answered.get_future().get();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].name, "r1");
  ASSERT_TRUE(answers[0].loads);
  EXPECT_EQ(answers[0].loads->loads.num_steps, 1);
}

class Traces : public testing::Test {
 protected:
  Traces() {
    std::string name = (std::filesystem::temp_directory_path() / "guildhall-trace-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Traces() override { std::filesystem::remove_all(folder_); }
  RawReply post(const Node& node, std::string_view body) {
    return RawClient(node.server->port()).post(kTrace, body);
  }
  std::filesystem::path folder_;
};

TEST_F(Traces, AreStartedAndStopped) {
  Node node("r0", {.folder = folder_, .max_bytes = 1 << 20, .suffix = "r0"});
  node.serve();
  const RawReply started = post(node, R"({"action": "start", "name": "monday"})");
  ASSERT_EQ(started.status, 200);
  EXPECT_EQ(started.json().at("state"), "recording");
  EXPECT_EQ(node.get().json().at("trace").at("state"), "recording");
  EXPECT_EQ(post(node, R"({"action": "start", "name": "tuesday"})").status, 400);
  node.step();
  const json::object stopped = post(node, R"({"action": "stop"})").json();
  EXPECT_EQ(stopped.at("state"), "finished");
  EXPECT_EQ(stopped.at("steps"), 1);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "monday-r0.ghtr"));
}

TEST_F(Traces, WhatIsWrongIsNamed) {
  Node node("r0", {.folder = folder_, .max_bytes = 1 << 20, .suffix = "r0"});
  node.serve();
  for (const auto& [body, what] : {std::pair{R"({})", "action"},
                                   {R"({"action": "pause"})", "action"},
                                   {R"({"action": 1})", "action"},
                                   {R"({"action": "start"})", "1 to 64 letters"},
                                   {R"({"action": "start", "name": "../x"})", "1 to 64 letters"},
                                   {R"({"action": "stop"})", "no routing trace"},
                                   {R"(stop)", "JSON"}}) {
    const RawReply reply = post(node, body);
    EXPECT_EQ(reply.status, 400) << body;
    EXPECT_THAT(std::string(reply.error().at("message").as_string()), HasSubstr(what)) << body;
  }
  Node nowhere("r0");
  nowhere.serve();
  EXPECT_THAT(
      std::string(post(nowhere, R"({"action": "start", "name": "a"})").error().at("message").as_string()),
      HasSubstr("balance.trace.folder"));
}

}  // namespace
}  // namespace guildhall
