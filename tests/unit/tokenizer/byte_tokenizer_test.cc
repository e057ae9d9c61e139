#include "model/tokenizer/byte_tokenizer.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

TEST(ByteTokenizer, IdsAreBytesAndComeBack) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  const std::string text = "Caf\xc3\xa9 \n";
  const auto ids = tokenizer->encode(text, {});
  ASSERT_EQ(ids.size(), text.size());
  for (size_t i = 0; i < text.size(); ++i) EXPECT_EQ(ids[i], static_cast<unsigned char>(text[i]));
  EXPECT_EQ(tokenizer->decode(ids, false), text);
}

}  // namespace
}  // namespace guildhall
