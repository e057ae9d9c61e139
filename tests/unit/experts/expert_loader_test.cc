#include "experts/expert_loader.h"

#include <future>

#include "base/units.h"
#include "tests/unit/experts/dispatch_frames.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CheckMemory, SaysWhatIsNeededAndWhatFits) {
  const int64_t each = expert_bytes(tiny_model());
  const ExpertsOfLayer six = experts_of_both_layers({0, 4, 8});
  EXPECT_TRUE(check_memory(tiny_model(), six, 0));  // no limit
  EXPECT_TRUE(check_memory(tiny_model(), six, 6 * each));
  const Result<void> refused = check_memory(tiny_model(), six, 6 * each - 1);
  ASSERT_TRUE(refused.has_error());
  EXPECT_EQ(refused.error().code, Code::resource_exhausted);
  EXPECT_EQ(
      refused.error().message,
      "6 experts of " + format_bytes(each) + " take " + format_bytes(6 * each) +
          "; experts.workers.memory is " + format_bytes(6 * each - 1) +
          ", which holds 5 of them: give this worker more memory, add workers, or set experts.offload.mode");
  EXPECT_TRUE(check_memory(tiny_model(), {{}, {}, {}}, 1));
}

class ExpertLoaderTest : public ::testing::Test {
 protected:
  using Loaded = Result<LoadedExperts>;
  Loaded load(const ExpertLoaderOptions& options) {
    std::promise<Loaded> done;
    ExpertLoader loader(options, tiny_model(), experts_of_both_layers({0, 4, 8}),
                        [&](Loaded store) { done.set_value(std::move(store)); });
    Loaded loaded = done.get_future().get();
    bytes_done_ = loader.bytes_done(), bytes_total_ = loader.bytes_total();
    EXPECT_EQ(loader.experts(), experts_of_both_layers({0, 4, 8}));
    return loaded;
  }
  int64_t bytes_done_ = 0, bytes_total_ = 0;
};

TEST_F(ExpertLoaderTest, LoadsTheExpertsItWasGiven) {
  const Loaded loaded = load({.model_path = tiny_checkpoint()});
  ASSERT_FALSE(loaded.has_error()) << loaded.error().message;
  const auto& store = std::get<std::shared_ptr<const ExpertStore>>(*loaded);
  EXPECT_EQ(store->num_experts(), 6);
  EXPECT_NE(store->find(2, 4), nullptr);
  EXPECT_EQ(store->find(2, 5), nullptr);
  EXPECT_EQ(bytes_done_, bytes_total_);
  EXPECT_GT(bytes_total_, 0);
}

TEST_F(ExpertLoaderTest, LoadsNothingWhenMemoryIsShort) {
  const Loaded loaded = load({.model_path = tiny_checkpoint(), .memory_limit = expert_bytes(tiny_model())});
  ASSERT_TRUE(loaded.has_error());
  EXPECT_THAT(loaded.error().message, HasSubstr("which holds 1 of them"));
  EXPECT_EQ(bytes_done_, 0);
}

TEST_F(ExpertLoaderTest, SaysWhichCheckpointIsMissing) {
  const Loaded loaded = load({.model_path = "/nonexistent/checkpoint"});
  ASSERT_TRUE(loaded.has_error());
  EXPECT_THAT(loaded.error().message, HasSubstr("/nonexistent/checkpoint"));
}

TEST_F(ExpertLoaderTest, ItsEndCancelsALoadUnderWay) {
  for (int i = 0; i < 5; ++i) {
    int num_calls = 0;
    {
      const ExpertLoader loader({.model_path = tiny_checkpoint()}, tiny_model(),
                                experts_of_both_layers({0, 4, 8}), [&](const Loaded& loaded) {
                                  ++num_calls;
                                  EXPECT_TRUE(loaded.has_value() || loaded.error().code == Code::cancelled);
                                });
    }
    EXPECT_EQ(num_calls, 1);
  }
}

}  // namespace
}  // namespace guildhall
