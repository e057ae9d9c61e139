// weights_test.cc: an expert goes from one worker to another over every transport, while frames are late,
// double, lost or wrong and ends die: it arrives with the right bytes, or the fetch says why not, in time.
#include <cstring>
#include <future>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "experts/weight_fetch.h"
#include "kernels/cpu_ops.h"
#include "proto/weights_codec.h"
#include "tests/conformance/world.h"
#include "tests/unit/experts/dispatch_frames.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using Bytes = FaultyExchange::Bytes;

// One worker on a thread of its own, that may die.
struct Node {
  Node(const Transport& transport, LoopbackFabric& fabric, const std::string& name, uint64_t seed)
      : end(transport.make_end(fabric, name), seed),
        worker(tiny_model(), end, make_cpu_ops({})),
        thread([this] { worker.run(); }) {
    worker.set_store(all_experts());
  }
  ~Node() {
    worker.stop();
    thread.join();
  }
  FaultyExchange end;
  Worker worker;
  std::thread thread;
};

Result<void> no_pace(int64_t) { return {}; }

class WeightsConformance : public ::testing::TestWithParam<Transport> {
 protected:
  static constexpr uint64_t kGeneration = 40;

  WeightsConformance() { [[maybe_unused]] static const bool quiet = init_log("conformance", "error"); }

  // An expert of the tiny model takes several chunks.
  static WeightFetchOptions options(std::string peer, std::chrono::nanoseconds deadline) {
    return {.peer = std::move(peer), .deadline = deadline, .chunk_bytes = 1000};
  }

  // w1 asks w0 from here on.
  std::shared_ptr<WeightFetch> link(std::chrono::nanoseconds deadline = std::chrono::minutes(1)) {
    Worker& asker = w1_.worker;
    auto fetch = std::make_shared<WeightFetch>(
        tiny_model(), options("w0", deadline), [&asker](uint64_t step_id, const WeightsRequest& request) {
          asker.use_weight_links([=](WeightLinks& links) { links.ask(kGeneration, step_id, request); });
        });
    const WorkerPeer from{"w1", w1_.end.local_address(), kGeneration};
    const WorkerPeer to{"w0", w0_.end.local_address(), kGeneration};
    attach_pair(w0_, from, w1_, to, fetch);
    return fetch;
  }
  // What a hello and its reply do.
  static void attach_pair(Node& source, const WorkerPeer& from, Node& asker, const WorkerPeer& to,
                          const std::shared_ptr<WeightFetch>& fetch) {
    SourceHello hello{.sent_ns = now_ns()};
    attach(source, [&](WeightLinks& links) -> Result<void> {
      GH_ASSIGN(hello.is_new_there, links.attach_asker(from, [](const Status&) {}));
      return {};
    });
    attach(asker, [&](WeightLinks& links) { return links.attach_source(to, hello, fetch); });
  }
  static void attach(Node& node, const std::function<Result<void>(WeightLinks&)>& how) {
    std::promise<void> done;
    node.worker.use_weight_links([&](WeightLinks& links) {
      EXPECT_FALSE(how(links).has_error());
      done.set_value();
    });
    done.get_future().wait();
  }
  void unlink() {
    for (Node* node : {&w1_, &w0_})
      attach(*node, [](WeightLinks& links) -> Result<void> {
        links.detach(kGeneration);
        return {};
      });
  }

  static void expect_right(WeightFetch& fetch, int64_t layer, int64_t expert) {
    const auto fetched = fetch.fetch(layer, expert, host_memory(), no_pace);
    ASSERT_FALSE(fetched.has_error()) << fetched.error().message;
    const ExpertPtr held = all_experts()->share(layer, expert);
    ASSERT_EQ(fetched->bytes.bytes(), held->memory.bytes());
    ASSERT_EQ(std::memcmp(fetched->bytes.data(), held->memory.data(), size_t(held->memory.bytes())), 0);
  }
  static Status expect_failed(WeightFetch& fetch) {
    const auto fetched = fetch.fetch(2, 3, host_memory(), no_pace);
    EXPECT_TRUE(fetched.has_error());
    return fetched.has_error() ? fetched.error() : Status{};
  }
  // Another link is as good as the first. It ends, too.
  void expect_right_anew() {
    unlink();
    w0_.end.set_script({}), w1_.end.set_script({});
    ASSERT_NO_FATAL_FAILURE(expect_right(*link(), 2, 3));
    unlink();
  }

  LoopbackFabric fabric_;
  Node w0_{GetParam(), fabric_, "w0", 1}, w1_{GetParam(), fabric_, "w1", 2};
};

// Changes what an end sends of one kind.
FaultyExchange::Script change(FrameKind kind, std::function<std::vector<Bytes>(Bytes)> how) {
  return [=](PeerId, Bytes frame) -> std::vector<Bytes> {
    FrameHeader header;
    std::memcpy(&header, frame.data(), sizeof header);
    if (header.kind != static_cast<uint16_t>(kind)) return {std::move(frame)};
    return how(std::move(frame));
  };
}

TEST_P(WeightsConformance, ExpertsArriveWithTheirBytes) {
  const auto fetch = link();
  for (const int64_t layer : {2, 0})
    for (const int64_t expert : {8, 0, 3}) ASSERT_NO_FATAL_FAILURE(expect_right(*fetch, layer, expert));
}

TEST_P(WeightsConformance, TwoWorkersFetchFromEachOtherOverOneLink) {
  const auto there = link();
  const uint64_t generation = kGeneration + 1;
  auto back = std::make_shared<WeightFetch>(
      tiny_model(), options("w1", std::chrono::minutes(1)),
      [this, generation](uint64_t step_id, const WeightsRequest& request) {
        w0_.worker.use_weight_links([=](WeightLinks& links) { links.ask(generation, step_id, request); });
      });
  const WorkerPeer from{"w0", w0_.end.local_address(), generation};
  const WorkerPeer to{"w1", w1_.end.local_address(), generation};
  attach_pair(w1_, from, w0_, to, back);
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) expect_right(*back, 2, i % 9);
  });
  for (int i = 0; i < 20; ++i) expect_right(*there, 0, i % 9);
  other.join();
  unlink();  // ends one direction only
  expect_right(*back, 2, 1);
}

// w0 has noticed that w1 is done, w1 has not noticed that w0 is: the one's end is gone, the other's is not.
TEST_P(WeightsConformance, AWorkerThatWasAskedAsksBackWhenTheLinkIsHalfGone) {
  ASSERT_NO_FATAL_FAILURE(expect_right(*link(), 2, 3));
  attach(w1_, [](WeightLinks& links) -> Result<void> {
    links.detach(kGeneration);
    return {};
  });
  const uint64_t generation = kGeneration + 1;
  auto back = std::make_shared<WeightFetch>(
      tiny_model(), options("w1", std::chrono::minutes(1)),
      [this, generation](uint64_t step_id, const WeightsRequest& request) {
        w0_.worker.use_weight_links([=](WeightLinks& links) { links.ask(generation, step_id, request); });
      });
  attach_pair(w1_, {"w0", w0_.end.local_address(), generation}, w0_,
              {"w1", w1_.end.local_address(), generation}, back);
  for (int i = 0; i < 9; ++i) ASSERT_NO_FATAL_FAILURE(expect_right(*back, 2, i));
}

// The asker's end is gone, the source's is not, as it asks itself: that is said at once, not after a
// deadline.
TEST_P(WeightsConformance, ALinkThatIsOverOnThisSideIsSaidSo) {
  const auto fetch = link();
  const Status why = [&] {
    std::promise<Status> said;
    w0_.worker.use_weight_links([&](WeightLinks& links) {
      const Result<void> attached =
          links.attach_source({"w9", "nowhere", 1}, {.sent_ns = 1, .is_new_there = false}, fetch);
      said.set_value(attached.has_error() ? attached.error() : Status{});
    });
    return said.get_future().get();
  }();
  EXPECT_EQ(why.code, Code::unavailable);
  EXPECT_THAT(why.message, HasSubstr("peer w9"));
}

TEST_P(WeightsConformance, AnExpertThatIsNotThereIsSaidSoAndTheNextOneComes) {
  const auto fetch = link();
  w0_.worker.remove_experts({{}, {}, {3}}, [](std::vector<PlacedExpert>) {});
  EXPECT_EQ(expect_failed(*fetch).code, Code::not_found);
  ASSERT_NO_FATAL_FAILURE(expect_right(*fetch, 2, 4));
}

TEST_P(WeightsConformance, WhatComesTwiceOrLateChangesNothing) {
  const auto fetch = link();
  const auto twice = [](Bytes frame) -> std::vector<Bytes> { return {frame, frame}; };
  w0_.end.set_script(change(FrameKind::weights, twice));
  w1_.end.set_script(change(FrameKind::weights_request, twice));
  for (int i = 0; i < 9; ++i) ASSERT_NO_FATAL_FAILURE(expect_right(*fetch, 2, i));
  w1_.end.set_script({});
  auto kept = std::make_shared<std::optional<Bytes>>();  // each answer comes once more, behind the next one
  w0_.end.set_script(change(FrameKind::weights, [kept](Bytes frame) -> std::vector<Bytes> {
    std::vector<Bytes> sent{frame};
    if (*kept) sent.push_back(**kept);
    *kept = std::move(frame);
    return sent;
  }));
  for (int i = 0; i < 9; ++i) ASSERT_NO_FATAL_FAILURE(expect_right(*fetch, 0, i));
}

TEST_P(WeightsConformance, ALostFrameIsADeadline) {
  for (const bool answer : {true, false}) {
    const auto fetch = link(std::chrono::milliseconds(50));
    const auto nothing = [](Bytes) -> std::vector<Bytes> { return {}; };
    answer ? w0_.end.set_script(change(FrameKind::weights, nothing))
           : w1_.end.set_script(change(FrameKind::weights_request, nothing));
    const Status why = expect_failed(*fetch);
    EXPECT_EQ(why.code, Code::deadline_exceeded);
    EXPECT_THAT(why.message, HasSubstr("peer w0: no answer within 50 ms"));
    ASSERT_NO_FATAL_FAILURE(expect_right_anew());
  }
}

TEST_P(WeightsConformance, BytesThatChangedOnTheWayAreNoticed) {
  const auto fetch = link();
  w0_.end.set_script(change(FrameKind::weights, [](Bytes frame) -> std::vector<Bytes> {
    frame[sizeof(FrameHeader) + sizeof(WeightsBody) + 5] ^= std::byte{1};
    return {std::move(frame)};
  }));
  const Status why = expect_failed(*fetch);
  EXPECT_EQ(why.code, Code::data_loss);
  EXPECT_THAT(why.message, HasSubstr("checksum"));
  ASSERT_NO_FATAL_FAILURE(expect_right_anew());
}

TEST_P(WeightsConformance, ChunksOfSomethingElseAreNotTaken) {
  const std::vector<std::function<void(WeightsBody&)>> lies{
      [](WeightsBody& b) { b.expert = 4; },
      [](WeightsBody& b) { b.type = 1; },
      [](WeightsBody& b) { b.offset = 8, b.total_bytes += 8; },
      [](WeightsBody& b) { b.total_bytes += 64; },
      [](WeightsBody& b) { b.crc32c ^= 1; },
  };
  for (const auto& lie : lies) {
    const auto fetch = link();
    w0_.end.set_script(change(FrameKind::weights, [&](Bytes frame) -> std::vector<Bytes> {
      WeightsBody body;
      std::memcpy(&body, frame.data() + sizeof(FrameHeader), sizeof body);
      lie(body);
      std::memcpy(frame.data() + sizeof(FrameHeader), &body, sizeof body);
      return {std::move(frame)};
    }));
    EXPECT_EQ(expect_failed(*fetch).code, Code::data_loss);
    ASSERT_NO_FATAL_FAILURE(expect_right_anew());
  }
}

TEST_P(WeightsConformance, ABrokenFrameEndsTheFetchAtOnce) {
  const auto fetch = link();
  w0_.end.set_script(change(FrameKind::weights, [](Bytes frame) -> std::vector<Bytes> {
    frame[0] ^= std::byte{1};
    return {std::move(frame)};
  }));
  EXPECT_THAT(expect_failed(*fetch).message, HasSubstr("magic"));
  EXPECT_THAT(expect_failed(*fetch).message, HasSubstr("magic"));  // nothing more is to be had
}

TEST_P(WeightsConformance, APeerThatDiesEndsTheFetch) {
  for (const auto phase : {FaultyExchange::Phase::frame_arrives, FaultyExchange::Phase::acquires,
                           FaultyExchange::Phase::posts}) {
    Node source(GetParam(), fabric_, "w2", 3);
    const WorkerPeer from{"w1", w1_.end.local_address(), kGeneration};
    const WorkerPeer to{"w2", source.end.local_address(), kGeneration};
    const auto fetch = std::make_shared<WeightFetch>(
        tiny_model(), options("w2", std::chrono::seconds(2)),
        [this](uint64_t step_id, const WeightsRequest& request) {
          w1_.worker.use_weight_links([=](WeightLinks& links) { links.ask(kGeneration, step_id, request); });
        });
    attach_pair(source, from, w1_, to, fetch);
    ASSERT_NO_FATAL_FAILURE(expect_right(*fetch, 2, 3));
    source.end.die_at(phase);
    const Status why = expect_failed(*fetch);
    EXPECT_TRUE(why.code == Code::peer_lost || why.code == Code::deadline_exceeded) << to_string(why);
    attach(w1_, [](WeightLinks& links) -> Result<void> {
      links.detach(kGeneration);
      return {};
    });
  }
}

TEST_P(WeightsConformance, AnEndOfTheFetchWakesWhoWaits) {
  const auto fetch = link();
  w0_.end.set_script(change(FrameKind::weights, [](Bytes) -> std::vector<Bytes> { return {}; }));
  std::thread ends([&] { fetch->end({Code::cancelled, "no more"}); });
  EXPECT_EQ(expect_failed(*fetch).code, Code::cancelled);
  ends.join();
}

INSTANTIATE_TEST_SUITE_P(Transports, WeightsConformance, ::testing::ValuesIn(transports()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace guildhall
