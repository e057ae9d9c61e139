// loads_message_test.cc: loads go from router to router, and nothing that is none is taken for them.
#include "router/loads_message.h"

#include <random>

#include "proto/loads.pb.h"
#include "tests/unit/router/routing_fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

class LoadsMessageTest : public ::testing::Test {
 protected:
  LoadsMessageTest() {
    loads_.router = "r1";
    loads_.loads = empty_loads(shape_);
    loads_.loads.num_steps = 77;
    loads_.total_steps = 9000;
    loads_.loads.load_le[2][3] = {
        .prefill_tokens = 5, .decode_tokens = 6, .active_steps = 7, .decode_active_steps = 4};
    loads_.traffic_lw.resize(8);
    loads_.traffic_lw[5] = {.frames = 1, .pairs = 2, .bytes_sent = 3, .bytes_received = 4, .answer_ns = 5};
    loads_.window_s = 2.5;
  }
  // What is said of the loads when they are changed on the way.
  std::string refusal(const std::function<void(loads::RouterLoads&)>& change) const {
    loads::RouterLoads message;
    EXPECT_TRUE(message.ParseFromString(write_loads(loads_, shape_)));
    change(message);
    const auto read = read_loads(message.SerializeAsString(), shape_, 2);
    return read ? "" : read.error().message;
  }
  const TraceHeader shape_ = routing_fixture_shape();
  RouterLoads loads_;
};

TEST_F(LoadsMessageTest, WhatIsWrittenIsRead) {
  const auto read = read_loads(write_loads(loads_, shape_), shape_, 2);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->router, "r1");
  EXPECT_EQ(read->loads.num_steps, 77);
  EXPECT_EQ(read->total_steps, 9000);
  EXPECT_EQ(read->window_s, 2.5);
  EXPECT_EQ(read->traffic_lw, loads_.traffic_lw);
  ASSERT_EQ(read->loads.load_le.size(), 4u);
  EXPECT_TRUE(read->loads.load_le[0].empty());
  const ExpertLoad& load = read->loads.load_le[2][3];
  EXPECT_EQ(load.prefill_tokens, 5);
  EXPECT_EQ(load.decode_tokens, 6);
  EXPECT_EQ(load.active_steps, 7);
  EXPECT_EQ(load.decode_active_steps, 4);
  EXPECT_EQ(read->loads.load_le[1][3].tokens(), 0);
}

TEST_F(LoadsMessageTest, LoadsOfAnotherConfigurationAreRefused) {
  for (const std::function<void(loads::RouterLoads&)>& change :
       {std::function<void(loads::RouterLoads&)>([](auto& m) { m.set_model("other"); }),
        {[](auto& m) { m.set_num_layers(5); }},
        {[](auto& m) { m.set_num_experts(9); }},
        {[](auto& m) { m.set_num_workers(3); }}})
    EXPECT_THAT(refusal(change), HasSubstr("all routers need the same configuration"));
}

TEST_F(LoadsMessageTest, WhatDoesNotFitTogetherIsRefused) {
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers(0)->add_activations(1); }),
              HasSubstr("9 experts, not 8"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers(1)->clear_prefill_tokens(); }), HasSubstr("layer 2"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers(1)->add_workers(); }), HasSubstr("3 workers, not 2"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers()->RemoveLast(); }), HasSubstr("1 layers, not 2"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers(0)->set_layer(3); }),
              HasSubstr("layer 3 in the place of 1"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers(0)->set_decode_tokens(0, (1ull << 36) + 1); }),
              HasSubstr("a number that no window has"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_layers(0)->mutable_workers(0)->set_answer_ns(~0ull); }),
              HasSubstr("a number that no window has"));
  EXPECT_THAT(refusal([](auto& m) { m.set_num_steps(~0ull); }), HasSubstr("a number that none has"));
  EXPECT_THAT(refusal([](auto& m) { m.set_router(std::string(64, 'x')); }), HasSubstr("too long"));
}

TEST_F(LoadsMessageTest, BytesThatWereCutOrChangedAreRefusedOrAreLoads) {
  const std::string bytes = write_loads(loads_, shape_);
  for (size_t size = 0; size < bytes.size(); ++size) read_loads(bytes.substr(0, size), shape_, 2);
  std::mt19937_64 random(3);
  for (int i = 0; i < 20'000; ++i) {
    std::string changed = bytes;
    for (int n = 0; n < 3; ++n) changed[random() % changed.size()] = static_cast<char>(random());
    const auto read = read_loads(changed, shape_, 2);
    if (!read) continue;
    EXPECT_EQ(read->loads.load_le[1].size(), 8u);
    EXPECT_EQ(read->traffic_lw.size(), 8u);
    for (const ExpertLoad& load : read->loads.load_le[1]) EXPECT_GE(load.tokens(), 0);
  }
  EXPECT_FALSE(read_loads("HTTP/1.1 200 OK\r\n", shape_, 2));
  EXPECT_FALSE(read_loads("", shape_, 2));
}

}  // namespace
}  // namespace guildhall
