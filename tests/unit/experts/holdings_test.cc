#include "experts/holdings.h"

#include "tests/unit/experts/dispatch_frames.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using State = ExpertHoldings::State;

TEST(Holdings, AnnouncesWhatIsHeldAndNotWhatRetires) {
  ExpertHoldings holdings(tiny_model());
  EXPECT_EQ(holdings.message().layers_size(), 0);
  holdings.set({{0, 3}, {}, {5}}, State::held);
  holdings.set({{3}, {}, {}}, State::retiring);
  holdings.next_version();
  const control::Holdings message = holdings.message();
  EXPECT_EQ(message.version(), 1u);
  ASSERT_EQ(message.layers_size(), 2);
  EXPECT_EQ(message.layers(0).layer(), 0u);
  EXPECT_THAT(message.layers(0).experts(), ElementsAre(0));
  EXPECT_EQ(message.layers(1).layer(), 2u);
  EXPECT_THAT(message.layers(1).experts(), ElementsAre(5));
  EXPECT_EQ(holdings.num_resident(), 3);
  EXPECT_EQ(holdings.among({{0, 1, 3}, {}, {5}}, State::held), (ExpertsOfLayer{{0}, {}, {5}}));
}

TEST(Holdings, ReadsItsOwnMessage) {
  ExpertHoldings holdings(tiny_model());
  const ExpertsOfLayer some{{0, 8}, {}, {1, 2, 3}};
  holdings.set(some, State::held);
  EXPECT_EQ(read_experts(holdings.message().layers(), tiny_model(), "holdings").value(), some);
}

TEST(Holdings, ALayerListedTwiceGoesOnWhereItEnded) {
  control::Holdings message;
  for (const uint32_t expert : {2, 1}) {
    auto& entry = *message.add_layers();
    entry.set_layer(2);
    entry.add_experts(expert);
  }
  const auto refused = read_experts(message.layers(), tiny_model(), "move");
  ASSERT_TRUE(refused.has_error());
  EXPECT_THAT(refused.error().message, HasSubstr("move: layer 2: expert 1 is out of order or range"));
  message.mutable_layers(1)->set_experts(0, 3);
  EXPECT_EQ(read_experts(message.layers(), tiny_model(), "move").value(), (ExpertsOfLayer{{}, {}, {2, 3}}));
}

}  // namespace
}  // namespace guildhall
