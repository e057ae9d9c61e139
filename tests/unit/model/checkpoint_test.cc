#include "model/checkpoint.h"

#include <gmock/gmock.h>

#include "checkpoint_files.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTwo[] = {2};

class CheckpointTest : public ::testing::Test {
 protected:
  void write_shard(const std::string& name, const TestTensors& tensors) {
    write_file(dir_.path() / name, safetensors_bytes(tensors));
  }
  void write_index(const std::string& weight_map) {
    write_file(dir_.path() / "model.safetensors.index.json", R"({"weight_map":)" + weight_map + "}");
  }
  std::string find_error(std::string_view tensor, std::span<const int64_t> shape = kTwo) {
    auto checkpoint = Checkpoint::open(dir_.path());
    if (checkpoint.has_error()) return checkpoint.error().message;
    const Result<TensorRef> ref = (*checkpoint)->find(tensor, shape);
    return ref.has_error() ? ref.error().message : "found";
  }
  TempDir dir_;
  const TestTensor tensor_ = f32_tensor({2}, {1, 2});
};

TEST_F(CheckpointTest, FindsTensorsInOneFile) {
  write_shard("model.safetensors", {{"a", tensor_}});
  EXPECT_EQ(find_error("a"), "found");
  EXPECT_THAT(find_error("b"), HasSubstr("model.safetensors: tensor b is not in the file"));
}

TEST_F(CheckpointTest, TakesTheOnlyFileWhateverItsName) {
  write_shard("weights.safetensors", {{"a", tensor_}});
  EXPECT_EQ(find_error("a"), "found");
  write_shard("more.safetensors", {{"b", tensor_}});
  EXPECT_THAT(find_error("a"),
              HasSubstr("several weight files (more.safetensors, weights.safetensors, ...)"));
}

TEST_F(CheckpointTest, OpensOnlyTheShardsThatAreNeeded) {
  write_shard("s1.safetensors", {{"a", tensor_}});
  write_file(dir_.path() / "s2.safetensors", "broken");
  write_index(R"({"a":"s1.safetensors","b":"s2.safetensors"})");
  EXPECT_EQ(find_error("a"), "found");
  EXPECT_THAT(find_error("b"), HasSubstr("s2.safetensors: 6 bytes is too short"));
  EXPECT_THAT(find_error("b"), HasSubstr("needed for tensor b"));
  EXPECT_THAT(find_error("c"), HasSubstr("model.safetensors.index.json: tensor c is not listed"));
}

TEST_F(CheckpointTest, NamesAMissingShardAndATensorMissingFromItsShard) {
  write_shard("s1.safetensors", {{"a", tensor_}});
  write_index(R"({"a":"s3.safetensors","b":"s1.safetensors"})");
  EXPECT_THAT(find_error("a"),
              HasSubstr("s3.safetensors: cannot open: No such file or directory (needed for tensor a)"));
  EXPECT_THAT(find_error("b"),
              HasSubstr("s1.safetensors: tensor b is not in the file, although the index says so"));
}

TEST_F(CheckpointTest, NamesATruncatedShard) {
  write_shard("model.safetensors", {{"a", tensor_}});
  const auto path = dir_.path() / "model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_THAT(find_error("a"), HasSubstr("model.safetensors: tensor a: its data ends at byte 8 of 7"));
}

TEST_F(CheckpointTest, NamesAWrongShape) {
  write_shard("model.safetensors", {{"a", tensor_}});
  const int64_t shape[] = {1, 2};
  EXPECT_THAT(find_error("a", shape), HasSubstr("tensor a has shape [2], but config.json asks for [1,2]"));
}

TEST_F(CheckpointTest, RefusesShardsOutsideTheFolder) {
  for (const char* bad :
       {"../s.safetensors", "/etc/passwd", "sub/s.safetensors", "..", "", "a\\\\b", "a\\u0000b"}) {
    write_index(fmt::format(R"({{"a":"{}"}})", bad));
    EXPECT_THAT(find_error("a"), HasSubstr("index.json: weight_map.a: ")) << bad;
    EXPECT_THAT(find_error("a"), HasSubstr("plain file name")) << bad;
  }
}

TEST_F(CheckpointTest, RefusesABadIndex) {
  write_index("3");
  EXPECT_THAT(find_error("a"), HasSubstr("weight_map: 3 is not an object"));
  write_index(R"({"a":1})");
  EXPECT_THAT(find_error("a"), HasSubstr("weight_map.a: 1 is not a string"));
  write_file(dir_.path() / "model.safetensors.index.json", "{}");
  EXPECT_THAT(find_error("a"), HasSubstr("weight_map: is missing"));
}

TEST_F(CheckpointTest, NamesAFolderWithoutWeights) {
  EXPECT_THAT(find_error("a"), HasSubstr("no weights: neither model.safetensors nor"));
  EXPECT_EQ(Checkpoint::open(dir_.path() / "none").error().code, Code::not_found);
}

}  // namespace
}  // namespace guildhall
