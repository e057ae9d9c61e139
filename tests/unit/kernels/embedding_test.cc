// embedding_test.cc: rows are the table's, exactly, from both weight types.
#include "kernels/embedding.h"

#include "kernel_fixture.h"

namespace guildhall {
namespace {

using Embedding = IsaTest;
INSTANTIATE_TEST_SUITE_P(Isa, Embedding, testing::ValuesIn(available_isas()), isa_name);

TEST_P(Embedding, GivesTheRowsExactly) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t hidden : {1, 7, 33, 128}) {
      const OwnedWeight w(11, hidden, dtype, 1);
      const std::vector<int32_t> ids = {10, 0, 3, 3, 7};
      std::vector<float> x(ids.size() * hidden), expected(x.size());
      embedding_cpu(ids, w.view, View2<float>(x.data(), 5, hidden));
      embedding_ref(ids, w.view, View2<float>(expected.data(), 5, hidden));
      EXPECT_EQ(x, expected);
      EXPECT_EQ(x[hidden], dtype == DType::f32 ? w.f32[0] : to_float(to_bf16(w.f32[0])));
    }
  }
}

TEST_P(Embedding, AnotherRanksRowIsZero) {
  const OwnedWeight w(2, 3, DType::bf16, 1);
  const std::vector<int32_t> ids = {-1, 1};
  std::vector<float> x(6, 7.0f), expected(6, 7.0f);
  embedding_cpu(ids, w.view, View2<float>(x.data(), 2, 3));
  embedding_ref(ids, w.view, View2<float>(expected.data(), 2, 3));
  EXPECT_EQ(x, expected);
  EXPECT_EQ(x[0], 0.0f);
  EXPECT_EQ(x[2], 0.0f);
}

TEST_P(Embedding, TakesNoTokens) {
  const OwnedWeight w(2, 3, DType::bf16, 1);
  embedding_cpu({}, w.view, View2<float>(nullptr, 0, 3));
}

}  // namespace
}  // namespace guildhall
