#include "model/safetensors.h"

#include <gmock/gmock.h>

#include "checkpoint_files.h"

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<std::unique_ptr<SafetensorsFile>> open_bytes(const TempDir& dir, const std::string& bytes) {
  write_file(dir.path() / "x.safetensors", bytes);
  return SafetensorsFile::open(dir.path() / "x.safetensors");
}

TEST(Safetensors, ReadsNamesShapesAndBytes) {
  const TempDir dir;
  const auto file = open_bytes(dir, safetensors_bytes({{"a", f32_tensor({2, 2}, {1, 2, 3, 4})},
                                                       {"b", u16_tensor("BF16", {3}, {7, 8, 9})},
                                                       {"empty", f32_tensor({0, 5}, {})},
                                                       {"scalar", f32_tensor({}, {42})}}))
                        .value();
  ASSERT_EQ(file->tensors().size(), 4u);
  const TensorInfo& a = file->tensors().at("a");
  EXPECT_EQ(a.dtype, "F32");
  EXPECT_THAT(a.shape, ElementsAre(2, 2));
  EXPECT_EQ(a.bytes(), 16);
  EXPECT_EQ(file->tensors().at("scalar").bytes(), 4);
  std::array<float, 2> last_two{};
  ASSERT_FALSE(file->read("a", a, 8, std::as_writable_bytes(std::span(last_two))).has_error());
  EXPECT_THAT(last_two, ElementsAre(3, 4));
}

TEST(Safetensors, AFileThatShrinksAfterOpeningIsAnErrorNotACrash) {
  const TempDir dir;
  const auto file = open_bytes(dir, safetensors_bytes({{"a", f32_tensor({4}, {1, 2, 3, 4})}})).value();
  std::filesystem::resize_file(dir.path() / "x.safetensors", 40);
  std::array<float, 4> out{};
  const Result<void> read =
      file->read("a", file->tensors().at("a"), 0, std::as_writable_bytes(std::span(out)));
  EXPECT_EQ(read.error().code, Code::data_loss);
  EXPECT_THAT(read.error().message, HasSubstr("x.safetensors: tensor a: the file ended"));
}

struct BadHeader {
  std::string_view header, says;
};
void PrintTo(const BadHeader& bad, std::ostream* out) { *out << bad.header; }

class SafetensorsRefuses : public ::testing::TestWithParam<BadHeader> {};

TEST_P(SafetensorsRefuses, AHeaderThatLies) {
  const TempDir dir;  // 16 bytes of data follow each header
  const auto file = open_bytes(dir, safetensors_bytes(std::string(GetParam().header), std::string(16, '\0')));
  ASSERT_TRUE(file.has_error());
  EXPECT_THAT(file.error().message, HasSubstr("x.safetensors: "));
  EXPECT_THAT(file.error().message, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Headers, SafetensorsRefuses,
    ::testing::Values(
        BadHeader{R"({"a":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}})",
                  "tensor a: its data ends at byte 20 of 16"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}})",
                  "tensor a: its data ends at byte 24"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}})",
                  "hold 16 bytes, which is not what"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})", "begin <= end"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}})", "begin <= end"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0]}})", "data_offsets is not a pair"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}})",
                  "data_offsets is not"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,9223372036854775807]}})",
                  "its data ends at byte"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4]}})", "data_offsets is not a pair"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})", "shape is not a list"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}})", "shape is not a list"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,16]}})",
                  "at most 8 sizes"},
        BadHeader{
            R"({"a":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,16]}})",
            "which is not what its dtype and shape say"},
        BadHeader{R"({"a":{"dtype":"F32","shape":[2305843009213693952],"data_offsets":[0,0]}})",
                  "hold 0 bytes"},
        BadHeader{R"({"a":{"dtype":"Q4","shape":[4],"data_offsets":[0,16]}})",
                  "tensor a: dtype 'Q4' is unknown"},
        BadHeader{R"({"a":{"dtype":7,"shape":[4],"data_offsets":[0,16]}})",
                  "dtype is missing or not a string"},
        BadHeader{R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", "hold 1 bytes"},
        BadHeader{
            R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
            "tensor b: its data overlaps that of tensor a"},
        BadHeader{R"({"a":[]})", "its header entry is not an object"},
        BadHeader{R"([])", "must be a JSON object"}, BadHeader{R"({"a":)", "header: not valid JSON"},
        BadHeader{"", "header: not valid JSON"}));

TEST(Safetensors, RefusesABadLengthPrefix) {
  const TempDir dir;
  EXPECT_THAT(open_bytes(dir, "").error().message, HasSubstr("too short"));
  EXPECT_THAT(open_bytes(dir, "1234567").error().message, HasSubstr("too short"));
  EXPECT_THAT(open_bytes(dir, std::string(64, '\xff')).error().message,
              HasSubstr("header length 18446744073709551615"));
  EXPECT_THAT(open_bytes(dir, std::string("\x40\0\0\0\0\0\0\0{}", 10)).error().message,
              HasSubstr("header length 64 exceeds the file's 10 bytes"));
  EXPECT_THAT(open_bytes(dir, "version https://git-lfs.github.com/spec/v1\n").error().message,
              HasSubstr("git lfs pull"));
}

TEST(Safetensors, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::open(dir.path() / "none").error().code, Code::not_found);
  EXPECT_THAT(SafetensorsFile::open(dir.path()).error().message, HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace guildhall
