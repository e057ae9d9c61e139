// moves_while_serving_test.cc: a router that dispatches without a pause to whatever it was told is held,
// while experts come and go; every answer has the bits of a worker where nothing moves.
#include <map>

#include "tests/unit/experts/moving_worker.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

// What the answer's rows must be: of one run of these experts, where all are held.
std::vector<std::byte> right_rows(const DispatchFrame& frame) {
  static const auto ops = make_cpu_ops({});
  static ExpertRunner runner(tiny_model(), *ops);
  runner.experts().set(*all_experts());
  const DispatchView dispatch = frame.view();
  const FrameShape shape = answer_shape(dispatch.header);
  std::vector<std::byte> rows(shape.num_rows * row_bytes(shape.codec, shape.hidden));
  const ExpertJob job{&dispatch, rows};
  runner.run({&job, 1});
  return rows;
}

// A data plane of its own beside the control link that the test has: one frame after the other.
class Serving final : public ExchangeHandler {
 public:
  Serving(Exchange& end, const std::string& worker_address, uint64_t generation)
      : end_(end), peer_(end.connect("w0", worker_address).value()), generation_(generation) {}

  // The answer's frame.
  std::vector<std::byte> ask(const DispatchFrame& frame) {
    const auto region = end_.acquire(peer_, frame.bytes().size()).value();
    std::ranges::copy(frame.bytes(), region.begin());
    const Exchange::Outgoing sent{peer_, frame.bytes().size()};
    end_.post({&sent, 1});
    answer_.clear();
    while (answer_.empty())
      if (end_.poll(*this) == 0) end_.wait(std::chrono::milliseconds(20));
    return answer_;
  }
  void expect_right(const std::vector<uint32_t>& held) {
    std::vector<std::vector<uint16_t>> experts_of_row(1 + random_() % 3);
    for (auto& experts : experts_of_row)
      for (int k = 0; k < 3; ++k) experts.push_back(static_cast<uint16_t>(held[random_() % held.size()]));
    const FrameFields fields{
        .generation = generation_, .step_id = ++step_, .layer = static_cast<uint16_t>(random_() % 2 * 2)};
    const DispatchFrame frame(fields, experts_of_row, Codec::f32, tiny_model().hidden,
                              static_cast<uint32_t>(step_));
    const std::vector<std::byte> answer = ask(frame);
    const auto view = decode_combine(answer);
    ASSERT_FALSE(view.has_error()) << view.error().message;
    const std::vector<std::byte> right = right_rows(frame);
    ASSERT_TRUE(std::ranges::equal(view->rows, right)) << "step " << step_;
  }

  void on_frame(PeerId, std::span<const std::byte> bytes) override {
    answer_.assign(bytes.begin(), bytes.end());
  }
  void on_peer_lost(PeerId, const Status& why) override {
    throw std::runtime_error("the worker was lost: " + why.message);
  }

 private:
  Exchange& end_;
  const PeerId peer_;
  const uint64_t generation_;
  uint64_t step_ = 0;
  std::mt19937 random_{7};
  std::vector<std::byte> answer_;
};

TEST(MovesWhileServing, EveryAnswerIsRightWhileExpertsComeAndGo) {
  LoopbackFabric fabric;
  MovingWorker source(fabric, "w1"), worker(fabric, "w0");
  MovesRouter to_source(fabric, source, "r0", 4), router(fabric, worker, "r0", 5);
  to_source.place({0, 1, 2, 3, 4, 5, 6, 7, 8});
  to_source.next_held();
  router.place({0, 4});
  ASSERT_THAT(router.next_held(), ::testing::ElementsAre(0, 4));

  // Who moves experts also says, between two steps, which holdings are in use from there on.
  std::mutex mutex;  // held during a step
  std::vector<uint32_t> held{0, 4};
  std::atomic<uint64_t> num_steps{0};
  std::atomic<bool> over{false}, wanted{false};  // wanted: the mutex, by who moves
  std::thread serving([&] {
    Serving steps(*router.end, worker.exchange_address(), 5);
    while (!over && !::testing::Test::HasFatalFailure()) {
      while (wanted) std::this_thread::yield();
      std::lock_guard step(mutex);
      steps.expect_right(held);
      ++num_steps;
    }
    over = true;
  });
  const auto take_holdings = [&] {
    const std::vector<uint32_t> now = router.next_held();
    wanted = true;
    std::lock_guard between_steps(mutex);
    wanted = false;
    held = now;
  };
  uint64_t move = 0;
  for (uint32_t i = 0; i < 30; ++i) {
    const uint32_t expert = 1 + i % 3;  // 0 and 4 stay
    router.add(++move, {expert}, i % 2 == 0 ? source.address() : "");
    take_holdings();
    EXPECT_EQ(router.outcome(move).state(), control::MoveStatus::DONE);
    for (const uint64_t before = num_steps; num_steps < before + 3 && !over;) std::this_thread::yield();
    router.drop(++move, {expert});
    take_holdings();
    router.see(router.last_version);
    EXPECT_EQ(router.outcome(move).state(), control::MoveStatus::DONE);
  }
  over = true;
  serving.join();
  EXPECT_EQ(worker.query().load().num_experts(), 4);
  EXPECT_EQ(worker.query().load().resident_bytes(), 4 * expert_bytes(tiny_model()));
  EXPECT_EQ(worker.worker().counters().frames_refused, 0u);
}

TEST(MovesWhileServing, AFrameForAnExpertThatIsGoneIsAFailureAndTheLinkGoesOn) {
  LoopbackFabric fabric;
  MovingWorker worker(fabric, "w0");
  MovesRouter router(fabric, worker, "r0", 5);
  router.place({0, 4});
  router.next_held();
  router.drop(1, {4});
  router.next_held();
  Serving steps(*router.end, worker.exchange_address(), 5);
  steps.expect_right({0, 4});  // still served
  router.see(router.last_version);
  EXPECT_EQ(router.outcome(1).state(), control::MoveStatus::DONE);
  const std::vector<std::byte> answer =
      steps.ask(DispatchFrame({.generation = 5, .step_id = 99, .layer = 2}, {{4}}));
  EXPECT_THAT(decode_failure(answer).value().why.message, HasSubstr("layer 2 expert 4 is not held here"));
  steps.expect_right({0});
}

}  // namespace
}  // namespace guildhall
