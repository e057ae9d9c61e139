// expert_reader_test.cc: an expert has the same bytes however it came: loaded with others, read alone, or put
// together from the bytes that another held it in.
#include "model/expert_reader.h"

#include <gmock/gmock.h>

#include <cstring>

#include "tests/unit/model/checkpoint_files.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

// Two layers, the first dense; three experts of widths that are no multiples of anything.
ModelSpec spec_of(DType dtype) {
  ModelSpec spec;
  spec.model_type = "qwen3_moe";
  spec.hidden = 140;
  spec.num_layers = 2;
  spec.weight_dtype = dtype == DType::f32 ? DType::f32 : DType::bf16;
  spec.fp8_weights = dtype == DType::e4m3;
  spec.moe = {.num_experts = 3, .top_k = 1, .expert_width = 130};
  spec.is_moe_layer = {false, true};
  return spec;
}

Result<void> no_pace(int64_t) { return {}; }

void expect_same_bytes(const ExpertWeights& a, const ExpertWeights& b) {
  ASSERT_EQ(a.memory.bytes(), b.memory.bytes());
  EXPECT_EQ(std::memcmp(a.memory.data(), b.memory.data(), static_cast<size_t>(a.memory.bytes())), 0);
}

// Views of one lie where those of the other do, each from its own memory's beginning.
void expect_same_views(const ExpertWeights& a, const ExpertWeights& b) {
  const auto at = [](const ExpertWeights& w, const void* p) {
    return p == nullptr ? -1 : static_cast<const std::byte*>(p) - w.memory.data();
  };
  for (const auto matrix :
       {&ExpertWeightView::gate_fh, &ExpertWeightView::up_fh, &ExpertWeightView::down_hf}) {
    const WeightView &x = a.view.*matrix, &y = b.view.*matrix;
    EXPECT_EQ(at(a, x.data), at(b, y.data));
    EXPECT_EQ(at(a, x.scale_bb), at(b, y.scale_bb));
    EXPECT_EQ(x.dtype, y.dtype);
    EXPECT_EQ(x.rows, y.rows);
    EXPECT_EQ(x.cols, y.cols);
  }
}

class ExpertReaderTest : public ::testing::TestWithParam<DType> {
 protected:
  const ModelSpec spec_ = spec_of(GetParam());
  const std::unique_ptr<ExpertReader> reader_ =
      ExpertReader::open("/nonexistent", spec_, LoadMode::dummy, host_memory(), no_pace).value();
};

TEST_P(ExpertReaderTest, ReadsWhatABulkLoadHas) {
  LoadProgress progress;
  const auto store =
      ExpertStore::load("/nonexistent", spec_, LoadMode::dummy, {{}, {0, 2}}, progress).value();
  for (const int64_t expert : {2, 0}) {
    const ExpertPtr read = reader_->load(1, expert).value();
    EXPECT_EQ(read->view.gate_fh.dtype, GetParam());
    EXPECT_EQ(read->memory.bytes(), expert_bytes(spec_));
    expect_same_bytes(*read, *store->share(1, expert));
    expect_same_views(*read, *store->share(1, expert));
  }
  EXPECT_EQ(store->share(1, 1), nullptr);
  EXPECT_EQ(store->bytes(), 2 * expert_bytes(spec_));
}

TEST_P(ExpertReaderTest, ItsBytesMakeTheSameExpertElsewhere) {
  const ExpertPtr read = reader_->load(1, 1).value();
  Arena bytes = Arena::allocate(read->memory.bytes(), host_memory()).value();
  std::memcpy(bytes.data(), read->memory.data(), static_cast<size_t>(bytes.bytes()));
  const ExpertPtr adopted = adopt_expert(spec_, GetParam(), std::move(bytes), host_memory()).value();
  expect_same_views(*adopted, *read);
  expect_same_bytes(*adopted, *read);
}

INSTANTIATE_TEST_SUITE_P(Types, ExpertReaderTest, ::testing::Values(DType::f32, DType::bf16, DType::e4m3),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(ExpertReader, AnExpertOutlivesTheStoreItWasLoadedWith) {
  const ModelSpec spec = spec_of(DType::bf16);
  LoadProgress progress;
  auto store = ExpertStore::load("/nonexistent", spec, LoadMode::dummy, {{}, {0, 1}}, progress).value();
  const ExpertPtr kept = store->share(1, 1);
  store.reset();
  const auto reader =
      ExpertReader::open("/nonexistent", spec, LoadMode::dummy, host_memory(), no_pace).value();
  expect_same_bytes(*kept, *reader->load(1, 1).value());
}

TEST(ExpertReader, EveryByteIsPacedInPiecesAndARefusalEndsTheLoad) {
  ModelSpec spec = spec_of(DType::f32);
  spec.hidden = 1024;
  spec.moe.expert_width = 1000;  // matrices of nearly 4 MiB
  int64_t paced = 0, most = INT64_MAX;
  const auto reader = ExpertReader::open("/nonexistent", spec, LoadMode::dummy, host_memory(),
                                         [&](int64_t bytes) -> Result<void> {
                                           EXPECT_LE(bytes, ExpertReader::kMaxPieceBytes);
                                           paced += bytes;
                                           if (paced > most) return Status{Code::cancelled, "enough"};
                                           return {};
                                         })
                          .value();
  ASSERT_FALSE(reader->load(1, 0).has_error());
  EXPECT_EQ(paced, 3 * 1024 * 1000 * 4);
  paced = 0, most = 2 << 20;
  const auto refused = reader->load(1, 1);
  ASSERT_TRUE(refused.has_error());
  EXPECT_EQ(refused.error().code, Code::cancelled);
  EXPECT_EQ(paced, 3 << 20);
}

TEST(ExpertReader, NamesATensorThatIsMissing) {
  TempDir dir;
  const TestTensors tensors{{"other", f32_tensor({1}, {1})}};
  write_file(dir.path() / "model.safetensors", safetensors_bytes(tensors));
  const ModelSpec spec = spec_of(DType::bf16);
  const auto reader =
      ExpertReader::open(dir.path(), spec, LoadMode::checkpoint, host_memory(), no_pace).value();
  const auto refused = reader->load(1, 2);
  ASSERT_TRUE(refused.has_error());
  EXPECT_THAT(refused.error().message, HasSubstr("model.layers.1.mlp.experts.2.gate_proj.weight"));
}

}  // namespace
}  // namespace guildhall
