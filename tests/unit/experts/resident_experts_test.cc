// resident_experts_test.cc: which experts are in memory. They are the tiny checkpoint's, brought in when the
// test says so.
#include "experts/resident_experts.h"

#include <chrono>

#include "experts/expert_loader.h"
#include "kernels/cpu_ops.h"
#include "tests/unit/experts/counting_memory.h"
#include "tests/unit/experts/played_experts.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ResidentExpertsTest : public ::testing::Test {
 protected:
  void make(int64_t num_slots, int passes = 1'000'000) {
    cold_ = std::make_shared<PlayedExperts>(num_slots, memory_);
    cold_->in_use = [this] { return memory_.in_use(); };
    cold_->let_pass(passes);
    resident_ = std::make_unique<ResidentExperts>(tiny_model(), table_, cold_);
    resident_->hold(experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}));
  }
  ~ResidentExpertsTest() override {
    if (cold_) cold_->let_pass(1000);
  }
  void begin(int64_t layer, const std::vector<size_t>& experts) {
    offset_e_.assign(10, 0);
    for (size_t e = 0; e < 9; ++e)
      offset_e_[e + 1] = offset_e_[e] + (std::ranges::find(experts, e) != experts.end() ? 1 : 0);
    resident_->begin_run(layer, offset_e_);
  }
  // The experts given out, in order; each is in the table then.
  std::vector<size_t> finish(int64_t layer) {
    std::vector<size_t> given;
    for (ExpertRange r = resident_->next(); !r.empty(); r = resident_->next())
      for (size_t e = r.begin; e < r.end; ++e) {
        if (offset_e_[e] == offset_e_[e + 1]) continue;
        EXPECT_NE(table_.find(layer, static_cast<int64_t>(e)), nullptr);
        given.push_back(e);
      }
    return given;
  }
  std::vector<size_t> run(int64_t layer, const std::vector<size_t>& experts) {
    begin(layer, experts);
    return finish(layer);
  }
  void advance_until(const std::function<bool()>& is_so) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!is_so()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      resident_->advance();
    }
  }
  bool is_resident(int64_t layer, int64_t expert) const { return table_.find(layer, expert) != nullptr; }
  const ResidentSums& sums() const { return resident_->sums(); }

  CountingMemory memory_;
  ExpertTable table_{tiny_model()};
  std::shared_ptr<PlayedExperts> cold_;
  std::unique_ptr<ResidentExperts> resident_;
  std::vector<int32_t> offset_e_;
};

TEST_F(ResidentExpertsTest, WhatIsThereIsAHitAndTheRestIsWaitedFor) {
  make(4);
  EXPECT_THAT(run(0, {1, 2}), ElementsAre(1, 2));
  EXPECT_EQ(sums().hits, 0u);
  EXPECT_EQ(sums().waits, 2u);
  EXPECT_EQ(sums().resident_experts, 2u);
  EXPECT_EQ(sums().resident_bytes, static_cast<uint64_t>(2 * kBytes));
  EXPECT_EQ(sums().loaded_bytes, static_cast<uint64_t>(2 * kBytes));
  run(0, {1, 2, 5});
  EXPECT_EQ(sums().hits, 2u);
  EXPECT_EQ(sums().waits, 3u);
  EXPECT_GT(sums().wait_ns, 0u);
  EXPECT_EQ(sums().evictions, 0u);
}

TEST_F(ResidentExpertsTest, WhatIsThereIsGivenOutWhileTheRestComes) {
  make(4, /*passes=*/2);
  run(0, {2, 3});
  begin(0, {1, 2, 3});
  const ExpertRange there = resident_->next();
  EXPECT_EQ(there.begin, 2u);
  EXPECT_EQ(there.end, 4u);
  cold_->let_pass(1);
  const ExpertRange came = resident_->next();
  EXPECT_EQ(came.begin, 1u);
  EXPECT_EQ(came.end, 2u);
  EXPECT_TRUE(resident_->next().empty());
}

TEST_F(ResidentExpertsTest, ARunOfMoreThanFitsNeverTakesMoreThanTheSlots) {
  for (const int64_t num_slots : {2, 3, 5}) {
    make(num_slots);
    for (int i = 0; i < 4; ++i)
      for (const int64_t layer : {0, 2}) {
        std::vector<size_t> given = run(layer, {0, 1, 2, 3, 4, 5, 6, 7, 8});
        std::ranges::sort(given);
        EXPECT_THAT(given, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
        resident_->expect(2 - layer, std::vector<uint16_t>{8, 7, 6});
        resident_->advance();
      }
    EXPECT_LE(sums().resident_experts, static_cast<uint64_t>(num_slots));
    EXPECT_GT(sums().evictions, 0u);
    resident_.reset();
    table_ = ExpertTable(tiny_model());
    EXPECT_LE(cold_->most_in_use, num_slots * kBytes);
    EXPECT_EQ(memory_.in_use(), 0);
  }
}

TEST_F(ResidentExpertsTest, TheLeastUsedMakesWay) {
  make(3);
  for (int i = 0; i < 5; ++i) run(0, {1, 2});
  for (int i = 0; i < 3; ++i) run(2, {4 + static_cast<size_t>(i)});
  EXPECT_TRUE(is_resident(0, 1));
  EXPECT_TRUE(is_resident(0, 2));
  EXPECT_TRUE(is_resident(2, 6));
  EXPECT_EQ(sums().evictions, 2u);
}

TEST_F(ResidentExpertsTest, UsesLongAgoCountLess) {
  make(2);
  for (int i = 0; i < 8; ++i) run(0, {1});
  for (int i = 0; i < 4 * static_cast<int>(ResidentExperts::kHalfLife); ++i) run(0, {2});
  run(0, {3});
  EXPECT_FALSE(is_resident(0, 1));
  EXPECT_TRUE(is_resident(0, 2));
}

TEST_F(ResidentExpertsTest, WhatIsExpectedIsThereWhenItsLayerRuns) {
  make(4);
  run(0, {1, 2});
  resident_->expect(2, std::vector<uint16_t>{7, 3});
  advance_until([&] { return is_resident(2, 7) && is_resident(2, 3); });
  run(2, {7});
  EXPECT_EQ(sums().hits, 1u);
  EXPECT_EQ(sums().prefetched_used, 1u);
  EXPECT_EQ(sums().prefetched_unused, 1u);
}

TEST_F(ResidentExpertsTest, ARunsNeedsComeBeforeWhatIsExpected) {
  make(8, /*passes=*/0);
  resident_->expect(2, std::vector<uint16_t>{3, 4, 5});
  resident_->advance();
  begin(0, {1, 2});
  cold_->let_pass(1000);
  finish(0);
  advance_until([&] { return is_resident(2, 5); });
  ASSERT_EQ(cold_->order.size(), 5u);
  // The bringer may have taken the first expected one before the run began; no more than that.
  const size_t first = cold_->order[0].layer == 2 ? 1 : 0;
  EXPECT_EQ(cold_->order[first], (ExpertKey{0, 1}));
  EXPECT_EQ(cold_->order[first + 1], (ExpertKey{0, 2}));
}

TEST_F(ResidentExpertsTest, AtMostHalfOfTheSlotsAreForWhatIsExpected) {
  make(4);
  resident_->expect(0, std::vector<uint16_t>{1, 2, 3, 4});
  advance_until([&] { return sums().resident_experts == 2; });
  for (int i = 0; i < 100; ++i) resident_->advance();
  EXPECT_EQ(sums().resident_experts, 2u);
}

TEST_F(ResidentExpertsTest, ExpectedExpertsTakeNoSlotOfHotterOnes) {
  make(2);
  for (int i = 0; i < 5; ++i) run(0, {1, 2});
  resident_->expect(2, std::vector<uint16_t>{7});
  for (int i = 0; i < 100; ++i) resident_->advance();
  EXPECT_EQ(sums().evictions, 0u);
  EXPECT_TRUE(is_resident(0, 1) && is_resident(0, 2));
}

TEST_F(ResidentExpertsTest, PredictionsThatNeverCameTrueEnd) {
  make(4);
  resident_->expect(2, std::vector<uint16_t>{7});
  advance_until([&] { return is_resident(2, 7); });
  for (uint64_t i = 0; i <= ResidentExperts::kPatience + 1; ++i) run(0, {1});
  EXPECT_EQ(sums().prefetched_unused, 1u);
}

TEST_F(ResidentExpertsTest, WhatCannotBeReadIsLeftOutAndAskedForAgain) {
  make(3);
  cold_->broken = 5;
  EXPECT_THAT(run(0, {4, 5, 6}), ElementsAre(4, 6));
  ASSERT_EQ(resident_->missing().size(), 1u);
  EXPECT_EQ(resident_->missing()[0].expert, 5);
  EXPECT_THAT(resident_->missing()[0].why.message, HasSubstr("the disk said no"));
  EXPECT_EQ(sums().load_errors, 1u);
  cold_->broken = -1;
  std::vector<size_t> given = run(0, {4, 5, 6});
  std::ranges::sort(given);
  EXPECT_THAT(given, ElementsAre(4, 5, 6));
  EXPECT_THAT(resident_->missing(), IsEmpty());
}

TEST_F(ResidentExpertsTest, ADroppedExpertLeavesMemoryAndIsHeldNoMore) {
  make(3, /*passes=*/1);
  run(0, {1});
  resident_->expect(0, std::vector<uint16_t>{2});
  resident_->advance();
  resident_->drop({{1, 2}, {}, {}});
  EXPECT_FALSE(resident_->holds(0, 1));
  EXPECT_TRUE(resident_->holds(0, 3));
  EXPECT_FALSE(resident_->holds(0, 9));
  EXPECT_FALSE(resident_->holds(1, 0));
  cold_->let_pass(1);
  advance_until([&] { return sums().loaded_bytes == static_cast<uint64_t>(2 * kBytes); });
  EXPECT_EQ(sums().resident_experts, 0u);
  EXPECT_EQ(memory_.in_use(), 0) << "what came late is thrown away";
  resident_->hold({{2}, {}, {}});
  cold_->let_pass(1);
  EXPECT_THAT(run(0, {2}), ElementsAre(2));
}

TEST_F(ResidentExpertsTest, WhatIsNotHeldIsNotExpected) {
  make(4);
  resident_->drop({{3}, {}, {}});
  resident_->expect(0, std::vector<uint16_t>{3, 900});
  resident_->expect(1, std::vector<uint16_t>{0});
  resident_->expect(77, std::vector<uint16_t>{0});
  for (int i = 0; i < 10; ++i) resident_->advance();
  EXPECT_EQ(sums().loaded_bytes, 0u);
}

// ---- the experts' worker

// A device with memory of its own: what it reads was uploaded there.
class DeviceLikeMemory final : public DeviceMemory {
 public:
  std::string name() const override { return "device"; }
  bool is_host() const override { return false; }
  Result<MemoryBlock> allocate(int64_t bytes) override { return own_.allocate(bytes); }
  Result<MemoryBlock> allocate_pinned(int64_t bytes) override {
    if (pinned_left_ < bytes) return Status{Code::resource_exhausted, "no more pinned memory"};
    pinned_left_ -= bytes;
    return host_memory().allocate(bytes);
  }
  Result<void> upload(std::span<const std::byte> host, std::byte* device) override {
    return host_memory().upload(host, device);
  }
  MemoryFigures figures() const override { return {.total_bytes = 1 << 20, .free_bytes = 1 << 20}; }
  int64_t in_use() const { return own_.in_use(); }

 private:
  CountingMemory own_;
  int64_t pinned_left_ = 5 * kBytes;
};

TEST(OpenColdExperts, TheHostsAreReadOnceAndCopied) {
  DeviceLikeMemory device;
  LoadProgress progress;
  const auto cold = open_cold_experts({.model_path = tiny_checkpoint(),
                                       .memory_limit = 2 * kBytes,
                                       .device = &device,
                                       .offload = OffloadMode::host},
                                      tiny_model(), experts_of_both_layers({0, 1, 2, 3}), progress)
                        .value();
  EXPECT_EQ(progress.bytes_total, 8 * kBytes);
  EXPECT_EQ(progress.bytes_done, 8 * kBytes);
  EXPECT_EQ(device.in_use(), 0);
  for (const int64_t expert : {3, 3, 7}) {  // the last one was not read at the start
    const ExpertPtr brought = cold->bring(2, expert).value();
    EXPECT_EQ(device.in_use(), kBytes);
    const Arena& expected = all_experts()->share(2, expert)->memory;
    ASSERT_EQ(brought->memory.bytes(), expected.bytes());
    EXPECT_EQ(std::memcmp(brought->memory.data(), expected.data(), static_cast<size_t>(kBytes)), 0);
    EXPECT_EQ(brought->view.gate_fh.data, brought->memory.data());
  }
}

TEST(OpenColdExperts, RefusesWhatCannotWork) {
  LoadProgress progress;
  const auto refusal = [&](ExpertLoaderOptions options) {
    options.model_path = tiny_checkpoint();
    const auto opened = open_cold_experts(options, tiny_model(), experts_of_both_layers({0, 1}), progress);
    return opened.has_error() ? opened.error().message : "none";
  };
  EXPECT_THAT(refusal({.memory_limit = 2 * kBytes - 1, .offload = OffloadMode::disk}),
              HasSubstr("which holds 1 of them; it must hold 2"));
  EXPECT_THAT(refusal({.memory_limit = 2 * kBytes, .offload = OffloadMode::host}),
              HasSubstr("disk is what works here"));
  EXPECT_EQ(refusal({.memory_limit = 2 * kBytes, .offload = OffloadMode::disk}), "none");
}

class OffloadedRunTest : public ::testing::Test {
 protected:
  // The answer of a runner that has all experts in memory.
  static std::vector<std::byte> whole(const DispatchFrame& frame) {
    const auto ops = make_cpu_ops({.num_threads = 2});
    ExpertRunner runner(tiny_model(), *ops);
    runner.experts().set(*all_experts());
    return answer(runner, frame);
  }
  static std::vector<std::byte> answer(ExpertRunner& runner, const DispatchFrame& frame) {
    const DispatchView d = frame.view();
    EXPECT_TRUE(runner.check(d));
    const FrameShape shape = answer_shape(d.header);
    std::vector<std::byte> rows(shape.num_rows * row_bytes(shape.codec, shape.hidden));
    const ExpertJob job{&d, rows};
    runner.run({&job, 1});
    return rows;
  }
};

TEST_F(OffloadedRunTest, RunsInPartsHaveTheBitsOfWholeOnes) {
  const std::vector<std::vector<uint16_t>> rows{{8, 0, 3}, {3}, {0, 8, 1, 2}, {5, 4, 3, 0}, {6, 7, 2}, {}};
  for (const int64_t num_slots : {2, 3, 9}) {
    const auto ops = make_cpu_ops({.num_threads = 2});
    ExpertRunner runner(tiny_model(), *ops);
    LoadProgress progress;
    runner.offload(
        open_cold_experts({.model_path = tiny_checkpoint(),
                           .memory_limit = num_slots * kBytes,
                           .offload = OffloadMode::disk},
                          tiny_model(), experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}), progress)
            .value(),
        experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}));
    for (int i = 0; i < 3; ++i)
      for (const Combine combine : {Combine::exact, Combine::reduced})
        for (const uint16_t layer : {0, 2}) {
          const DispatchFrame frame({.layer = layer, .combine = combine}, rows);
          EXPECT_EQ(answer(runner, frame), whole(frame)) << num_slots << " slots, layer " << layer;
        }
    EXPECT_EQ(runner.sums().activations, 3u * 2 * 2 * 9);
    EXPECT_EQ(runner.sums().weight_bytes, static_cast<uint64_t>(3 * 2 * 2 * 9 * kBytes));
  }
}

TEST_F(OffloadedRunTest, OnlyJobsThatNeedAnUnreadableExpertFail) {
  const auto ops = make_cpu_ops({});
  ExpertRunner runner(tiny_model(), *ops);
  const auto cold = std::make_shared<PlayedExperts>(3, ops->memory());
  cold->let_pass(1000);
  cold->broken = 5;
  runner.offload(cold, experts_of_both_layers({0, 1, 2, 3, 4, 5, 6, 7, 8}));
  const DispatchFrame good({.layer = 2}, {{1, 2}, {7}}), bad({.layer = 2}, {{1, 5}});
  const DispatchView views[] = {bad.view(), good.view()};
  std::vector<std::vector<std::byte>> rows;
  std::vector<ExpertJob> jobs;
  for (const DispatchView& d : views) {
    const FrameShape shape = answer_shape(d.header);
    rows.emplace_back(shape.num_rows * row_bytes(shape.codec, shape.hidden));
  }
  for (size_t i = 0; i < 2; ++i) jobs.push_back({&views[i], rows[i]});
  runner.run(jobs);
  ASSERT_NE(runner.failure(0), nullptr);
  EXPECT_EQ(runner.failure(0)->code, Code::unavailable);
  EXPECT_THAT(runner.failure(0)->message, HasSubstr("layer 2 expert 5 could not be brought into memory"));
  EXPECT_EQ(runner.failure(1), nullptr);
  EXPECT_EQ(rows[1], whole(good));
  cold->broken = -1;
  EXPECT_EQ(answer(runner, bad), whole(bad));
}

}  // namespace
}  // namespace guildhall
