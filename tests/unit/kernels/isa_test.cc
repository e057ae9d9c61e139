// isa_test.cc: instruction sets have names, and the one in use can be changed to any the machine has.
#include "kernels/isa.h"

#include "kernel_fixture.h"

namespace guildhall {
namespace {

TEST(IsaNames, RoundTripAndRefuseOthers) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16})
    EXPECT_EQ(parse_isa(to_string(isa)), isa);
  EXPECT_FALSE(parse_isa("avx1024"));
  EXPECT_FALSE(parse_isa(""));
}

TEST(IsaInUse, IsTheDetectedOneUntilSet) {
  EXPECT_EQ(current_isa(), detect_isa());
  {
    IsaScope scope(Isa::portable);
    EXPECT_EQ(current_isa(), Isa::portable);
  }
  EXPECT_EQ(current_isa(), detect_isa());
}

}  // namespace
}  // namespace guildhall
