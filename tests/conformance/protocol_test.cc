// protocol_test.cc: real dispatchers and real workers over every transport, while frames are late, double,
// lost or wrong: a round gives the right bits or an error that names the worker, and nobody else is harmed.
#include <cstring>

#include "proto/codec.h"
#include "tests/conformance/mutations.h"
#include "tests/conformance/world.h"

namespace guildhall {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Bytes = FaultyExchange::Bytes;

class Conformance : public ::testing::TestWithParam<Transport> {
 protected:
  World make(const WorldOptions& options) { return World(GetParam(), options); }

  // A round with rows for everybody.
  static Round full_round(World& world) {
    for (;;) {
      Round round = world.draw_round();
      if (round.num_tokens >= 8) return round;
    }
  }
};

// Applies `change` to the next frame of an end, to one peer of it where one is given; true once it has.
std::shared_ptr<std::atomic<bool>> change_next(FaultyExchange& end,
                                               std::function<std::vector<Bytes>(Bytes)> change,
                                               std::optional<PeerId> only = std::nullopt) {
  auto done = std::make_shared<std::atomic<bool>>(false);
  end.set_script([=](PeerId peer, Bytes frame) -> std::vector<Bytes> {
    if ((only && peer != *only) || done->exchange(true)) return {std::move(frame)};
    return change(std::move(frame));
  });
  return done;
}

auto mutated(const Mutation& mutation) {
  return [apply = mutation.apply](Bytes frame) -> std::vector<Bytes> {
    apply(frame);
    return {std::move(frame)};
  };
}

std::vector<Bytes> nothing(Bytes) { return {}; }

// ---- what must not be noticed

TEST_P(Conformance, RightWithoutFaults) {
  World world = make({});
  for (int i = 0; i < 10; ++i) ASSERT_NO_FATAL_FAILURE(world.expect_right());
  EXPECT_THAT(world.take_lost(), IsEmpty());
}

TEST_P(Conformance, RightWhateverIsDelayedOvertakenOrDouble) {
  World world = make({.num_routers = 2});
  const std::vector<FaultyExchange::Faults> histories = {
      {.max_delay_polls = 20},
      {.reorder = 0.5},
      {.duplicate = 1},
      {.duplicate = 0.5, .reorder = 0.5, .max_delay_polls = 10}};
  for (const auto& faults : histories) {
    for (int w = 0; w < world.num_workers(); ++w) world.worker_end(w).set_faults(faults);
    for (int r = 0; r < world.num_routers(); ++r) world.router_end(r).set_faults(faults);
    for (int i = 0; i < 8; ++i) ASSERT_NO_FATAL_FAILURE(world.expect_right(i % 2));
  }
  EXPECT_THAT(world.take_lost(0), IsEmpty());
  EXPECT_THAT(world.take_lost(1), IsEmpty());
}

TEST_P(Conformance, RightWithWorkersThatGetNoRows) {
  World world = make({});
  for (const std::vector<int>& busy : std::vector<std::vector<int>>{{1}, {0, 2}, {2}, {0, 1, 2}})
    ASSERT_NO_FATAL_FAILURE(world.expect_right(world.draw_round(busy)));
  Round empty = world.draw_round();
  empty.num_tokens = 0;
  empty.x_th.clear(), empty.weight_tk.clear(), empty.expert_tk.clear();
  ASSERT_NO_FATAL_FAILURE(world.expect_right(empty));
  ASSERT_NO_FATAL_FAILURE(world.expect_right());
}

TEST_P(Conformance, ADispatchWithoutRowsIsAnsweredWithoutRows) {
  World world = make({.num_workers = 1});
  struct Ear final : ExchangeHandler {
    void on_frame(PeerId, std::span<const std::byte> bytes) override {
      answers.emplace_back(bytes.begin(), bytes.end());
    }
    void on_peer_lost(PeerId, const Status& why) override { ADD_FAILURE() << why.message; }
    std::vector<Bytes> answers;
  } ear;
  uint64_t generation = 0;  // the link's, seen on a round's frame
  world.router_end().set_script([&](PeerId, Bytes frame) -> std::vector<Bytes> {
    generation = decode_header(frame)->generation;
    return {std::move(frame)};
  });
  ASSERT_NO_FATAL_FAILURE(world.expect_right(full_round(world)));
  world.router_end().set_script({});

  const FrameShape shape{.hidden = 44, .codec = Codec::f32};
  const auto region =
      world.router_end().acquire(world.peer_of(0, 0), frame_layout(shape).total_bytes).value();
  begin_dispatch({.generation = generation, .step_id = 99, .layer = 2, .micro_batch = 1}, shape, region);
  const Exchange::Outgoing frame{world.peer_of(0, 0), region.size()};
  world.router_end().post({&frame, 1});
  ASSERT_TRUE(world.drive([&] { return !ear.answers.empty(); }, &ear));
  const auto answer = decode_combine(ear.answers[0]);
  ASSERT_FALSE(answer.has_error()) << answer.error().message;
  EXPECT_EQ(answer->header.num_rows, 0u);
  EXPECT_EQ(answer->header.step_id, 99u);
  EXPECT_EQ(answer->header.micro_batch, 1u);
}

// ---- wrong frames

TEST_P(Conformance, AWrongAnswerIsNamedAndEndsThatLinkOnly) {
  World world = make({});
  for (const Mutation& mutation : wrong_frames()) {
    SCOPED_TRACE(mutation.name);
    const auto changed = change_next(world.worker_end(1), mutated(mutation));
    const Result<void> done = world.run_any({full_round(world)});
    EXPECT_TRUE(*changed);
    ASSERT_TRUE(done.has_error());
    EXPECT_EQ(done.error().code, mutation.code) << done.error().message;
    EXPECT_THAT(done.error().message, StartsWith("worker=w1: bad frame: frame refused: "));
    ASSERT_THAT(world.take_lost(), ElementsAre(1));
    ASSERT_TRUE(world.attach(0, 1));
    ASSERT_NO_FATAL_FAILURE(world.expect_right());
  }
}

TEST_P(Conformance, AnAnswerTooLargeForTheTransportIsNamedAndEndsThatLinkOnly) {
  World world = make({});
  change_next(world.worker_end(1), mutated(too_large_frame()));
  const Result<void> done = world.run_any({full_round(world)});
  ASSERT_TRUE(done.has_error());
  EXPECT_THAT(done.error().message, StartsWith("worker=w1: "));
  ASSERT_THAT(world.take_lost(), ElementsAre(1));
  ASSERT_TRUE(world.attach(0, 1));
  ASSERT_NO_FATAL_FAILURE(world.expect_right());
}

// Too few or too many rows in a frame that is right in itself.
TEST_P(Conformance, AnAnswerOfAnotherDispatchsSizeIsNamedAndEndsThatLinkOnly) {
  World world = make({});
  for (const int more : {-1, 1}) {
    change_next(world.worker_end(1), [more](Bytes frame) -> std::vector<Bytes> {
      FrameHeader header;
      std::memcpy(&header, frame.data(), sizeof header);
      header.num_rows += static_cast<uint32_t>(more);
      frame.resize(
          frame_layout({header.num_rows, 0, header.hidden, static_cast<Codec>(header.codec)}).total_bytes);
      header.payload_bytes = frame.size() - sizeof header;
      std::memcpy(frame.data(), &header, sizeof header);
      return {std::move(frame)};
    });
    const Result<void> done = world.run_any({full_round(world)});
    ASSERT_TRUE(done.has_error());
    EXPECT_EQ(done.error().code, Code::data_loss);
    EXPECT_THAT(done.error().message, StartsWith("worker=w1: "));
    ASSERT_THAT(world.take_lost(), ElementsAre(1));
    ASSERT_TRUE(world.attach(0, 1));
    ASSERT_NO_FATAL_FAILURE(world.expect_right());
  }
}

// A worker does not answer what it refuses: the router hears of the link's end, or waits for its deadline.
TEST_P(Conformance, AWrongDispatchEndsThatRoutersLinkOnly) {
  World world = make({.num_routers = 2, .patient = false});
  const std::vector<Mutation> wrong = wrong_frames();
  // Each costs a deadline between threads, and loopback has tried them all.
  for (size_t i = 0; i < wrong.size(); i += GetParam().threads ? 4 : 1) {
    const Mutation& mutation = wrong[i];
    SCOPED_TRACE(mutation.name);
    const auto changed = change_next(world.router_end(0), mutated(mutation), world.peer_of(0, 1));
    const Result<void> done = world.run_any({full_round(world)}, 0);
    EXPECT_TRUE(*changed);
    ASSERT_TRUE(done.has_error());
    ASSERT_THAT(world.take_lost(0), Contains(1));
    ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end(1));
    world.attach_all();
    ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end(0));
  }
}

// ---- frames that answer nothing, or do not come

TEST_P(Conformance, FramesOfAStaleGenerationAreNotTaken) {
  World world = make({.patient = false});
  const auto stale = [](Bytes frame) -> std::vector<Bytes> {
    FrameHeader header;
    std::memcpy(&header, frame.data(), sizeof header);
    --header.generation;
    std::memcpy(frame.data(), &header, sizeof header);
    std::fill(frame.end() - 8, frame.end(), std::byte{0x41});  // would be seen in the sums
    return {std::move(frame)};
  };
  for (const bool answer : {true, false}) {
    const auto changed = answer ? change_next(world.worker_end(1), stale)
                                : change_next(world.router_end(), stale, world.peer_of(0, 1));
    const Result<void> done = world.run_any({full_round(world)});
    EXPECT_TRUE(*changed);
    ASSERT_TRUE(done.has_error());
    EXPECT_EQ(done.error().code, Code::deadline_exceeded);
    EXPECT_THAT(world.take_lost(), Contains(1));
    ASSERT_TRUE(world.attach(0, 1));
    ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end());
  }
}

TEST_P(Conformance, ALostFrameIsADeadlineThatNamesTheWorker) {
  World world = make({.patient = false});
  for (const bool answer : {true, false}) {
    answer ? change_next(world.worker_end(1), nothing)
           : change_next(world.router_end(), nothing, world.peer_of(0, 1));
    const Result<void> done = world.run_any({full_round(world)});
    ASSERT_TRUE(done.has_error());
    EXPECT_EQ(done.error().code, Code::deadline_exceeded);
    EXPECT_THAT(world.take_lost(), Contains(1));
    ASSERT_TRUE(world.attach(0, 1));
    ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end());
  }
}

// w1's answer waits at its end until the router has given it up; then it comes, on a link that is over.
TEST_P(Conformance, ASlowWorkerIsGivenUpAndItsLateAnswerIsNotTaken) {
  World world = make({.patient = false});
  for (int i = 0; i < 3; ++i) {
    auto held = std::make_shared<std::vector<Bytes>>();
    world.worker_end(1).set_script([held](PeerId, Bytes frame) -> std::vector<Bytes> {
      held->push_back(std::move(frame));
      return {};
    });
    const Result<void> done = world.run_any({full_round(world)});
    ASSERT_TRUE(done.has_error());
    EXPECT_EQ(done.error().code, Code::deadline_exceeded);
    const std::vector<int> lost = world.take_lost();
    ASSERT_THAT(lost, Contains(1));
    world.worker_end(1).set_script([held](PeerId, Bytes frame) -> std::vector<Bytes> {
      std::vector<Bytes> all = std::exchange(*held, {});  // the late ones first
      all.push_back(std::move(frame));
      return all;
    });
    for (const int w : lost) ASSERT_TRUE(world.attach(0, w));
    ASSERT_NO_FATAL_FAILURE(world.expect_right_in_the_end());
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, Conformance, ::testing::ValuesIn(transports()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace guildhall
