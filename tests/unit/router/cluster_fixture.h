// cluster_fixture.h: a cluster of one worker, which the test plays: w0 of two, whose share are experts 0
// to 2.
#pragma once

#include "router/cluster.h"
#include "tests/unit/router/specs.h"
#include "tests/unit/transport_control/fixture.h"

namespace guildhall {

class ClusterTest : public ControlTest {
 protected:
  static constexpr const char* kNobodyThere = "127.0.0.1:1";
  struct Ready {
    int32_t worker;
    std::string exchange_address;
    uint64_t generation;
    Holdings holdings;
  };

  ClusterTest() { is_answering_ = false; }
  ~ClusterTest() override {
    run_on_io([&] { cluster_.reset(); });
  }

  bool all_ready() const {
    for (const WorkerStatus& worker : cluster_->status())
      if (worker.state != "ready") return false;
    return true;
  }

  // A second worker is one that is not there.
  void start(std::chrono::nanoseconds startup_timeout = kGuard, int num_workers = 1) {
    const ModelSpec spec = tiny_gqa_spec();
    ClusterOptions options{.router_name = "r0",
                           .exchange_kind = "loopback",
                           .exchange_addresses = {"router-address", "second-replica"},
                           .model_type = "tiny",
                           .model_fingerprint = 4711,
                           .experts = expert_grid(spec),
                           .combine = Combine::reduced,
                           .isa = "avx2",
                           .heartbeat = std::chrono::seconds(10),
                           .startup_timeout = startup_timeout};
    ClusterEvents events;
    events.on_ready = [this](int32_t worker, const std::string& address, uint64_t generation,
                             const Holdings& holdings) {
      ready_.push({worker, address, generation, holdings});
    };
    events.on_holdings = [this](int32_t worker, uint64_t generation, const Holdings& holdings) {
      holdings_.push({worker, "", generation, holdings});
    };
    events.on_lost = [this](int32_t worker, const Status& why) {
      EXPECT_EQ(worker, 0);
      ++num_lost_;
      lost_.push(why);
    };
    events.on_startup_failed = [this](const Status& why) { startup_failed_.push(why); };
    std::vector<WorkerAddress> workers = {{"w0", address_, {Codec::fp8, Codec::bf16}},
                                          {"w1", kNobodyThere, {}}};
    workers.resize(static_cast<size_t>(num_workers));
    run_on_io([&] {
      cluster_ = std::make_unique<Cluster>(io_, options, std::move(workers), even_split(spec, 2, 5), events);
      cluster_->start();
    });
  }

  Received next_hello() {
    Received hello = messages_.pop();
    EXPECT_TRUE(hello.message.has_hello());
    return hello;
  }
  static void reply(const Received& hello, const std::string& exchange_address) {
    control::Envelope reply;
    reply.set_id(hello.message.id());
    reply.mutable_hello_reply()->set_worker_name("w0");
    reply.mutable_hello_reply()->set_exchange_address(exchange_address);
    reply.mutable_hello_reply()->set_isa("avx2");
    EXPECT_TRUE(hello.link->send(reply));
  }
  static control::Envelope load_status(control::LoadStatus::State state, int64_t bytes_done = 0) {
    control::Envelope message;
    control::LoadStatus& load = *message.mutable_load_status();
    load.set_state(state);
    load.set_bytes_done(bytes_done);
    load.set_bytes_total(100);
    if (state == control::LoadStatus::READY) load.set_num_experts(3), load.set_resident_bytes(100);
    if (state == control::LoadStatus::FAILED) load.set_error("no such checkpoint");
    return message;
  }
  // Experts of layer 1, the only one that has any.
  static control::Envelope holdings(uint32_t version, const std::vector<uint32_t>& experts) {
    control::Envelope message;
    message.mutable_holdings()->set_version(version);
    control::LayerExperts& layer = *message.mutable_holdings()->add_layers();
    layer.set_layer(1);
    for (const uint32_t expert : experts) layer.add_experts(expert);
    return message;
  }
  static ExpertsOfLayer experts(std::vector<int32_t> of_layer_1) { return {{}, std::move(of_layer_1)}; }

  // The worker's side of a link, from hello to READY and what it holds.
  Received become_ready(const std::string& exchange_address, uint32_t version = 1,
                        const std::vector<uint32_t>& held = {0, 1, 2}) {
    const Received hello = next_hello();
    reply(hello, exchange_address);
    last_placement_ = messages_.pop().message;
    EXPECT_TRUE(last_placement_.has_placement());
    EXPECT_TRUE(hello.link->send(load_status(control::LoadStatus::READY)));
    EXPECT_TRUE(hello.link->send(holdings(version, held)));
    return hello;
  }
  WorkerStatus status() const { return cluster_->status().at(0); }
  void wait_for_state(const std::string& state) {
    while (status().state != state) std::this_thread::yield();
  }

  std::unique_ptr<Cluster> cluster_;
  control::Envelope last_placement_;
  Events<Ready> ready_, holdings_;
  Events<Status> lost_, startup_failed_;
  std::atomic<int> num_lost_{0};
};

}  // namespace guildhall
