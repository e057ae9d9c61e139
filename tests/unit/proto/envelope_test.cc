#include "proto/envelope.h"

#include <gtest/gtest.h>

#include "proto/control.pb.h"

namespace guildhall {
namespace {

control::Envelope heartbeat(uint64_t sequence) {
  control::Envelope envelope;
  envelope.mutable_heartbeat()->set_sequence(sequence);
  return envelope;
}

TEST(Envelope, LengthIsLittleEndianAndCountsTheMessageOnly) {
  const auto bytes = encode_envelope(heartbeat(300));
  ASSERT_TRUE(bytes);
  EXPECT_EQ(bytes->size(), 4 + heartbeat(300).ByteSizeLong());
  EXPECT_EQ(static_cast<size_t>((*bytes)[0]), heartbeat(300).ByteSizeLong());
  EXPECT_EQ(bytes->substr(1, 3), std::string(3, '\0'));
}

TEST(Envelope, MessagesSurviveBeingFedByteByByte) {
  const std::string stream = *encode_envelope(heartbeat(1)) + *encode_envelope(heartbeat(2));
  EnvelopeAssembler assembler;
  std::vector<uint64_t> seen;
  for (const char byte : stream) {
    assembler.feed({&byte, 1});
    while (const auto next = *assembler.next()) seen.push_back(next->heartbeat().sequence());
  }
  EXPECT_EQ(seen, (std::vector<uint64_t>{1, 2}));
}

TEST(Envelope, ManyMessagesInOneFeedComeOutInOrder) {
  std::string stream;
  for (uint64_t i = 0; i < 1000; ++i) stream += *encode_envelope(heartbeat(i));
  EnvelopeAssembler assembler;
  for (size_t at = 0; at < stream.size(); at += 777) assembler.feed(std::string_view(stream).substr(at, 777));
  for (uint64_t i = 0; i < 1000; ++i) {
    const auto next = *assembler.next();
    ASSERT_TRUE(next);
    EXPECT_EQ(next->heartbeat().sequence(), i);
  }
  EXPECT_FALSE(*assembler.next());
}

TEST(Envelope, AnEmptyMessageIsAnEnvelopeWithoutBody) {
  EnvelopeAssembler assembler;
  assembler.feed(std::string(4, '\0'));
  const auto next = *assembler.next();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->body_case(), control::Envelope::BODY_NOT_SET);
}

TEST(Envelope, TextThatIsNotUtf8IsRefusedByStatusOnly) {
  EnvelopeAssembler assembler;
  assembler.feed(std::string_view("\x05\0\0\0\x12\x03\x1a\x01\xa6", 9));  // Hello.router_name
  testing::internal::CaptureStderr();
  const auto next = assembler.next();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  ASSERT_FALSE(next);
  EXPECT_EQ(next.error().code, Code::data_loss);
}

TEST(Envelope, OversizedLengthIsRefusedBeforeItsBytesCome) {
  EnvelopeAssembler assembler;
  assembler.feed(std::string_view("\x01\x00\x00\x01", 4));  // 16 MiB + 1
  const auto next = assembler.next();
  ASSERT_FALSE(next);
  EXPECT_EQ(next.error().code, Code::data_loss);
  EXPECT_NE(next.error().message.find("16777217 bytes"), std::string::npos) << next.error().message;
  EXPECT_FALSE(assembler.next());

  EnvelopeAssembler first(kMaxFirstEnvelopeBytes);
  first.feed(std::string_view("\x01\x00\x10\x00", 4));  // 1 MiB + 1
  EXPECT_FALSE(first.next());
}

TEST(Envelope, AnotherProtocolsBytesAreRefused) {
  EnvelopeAssembler http;
  http.feed("GET / HTTP/1.1\r\nHost: w0\r\n\r\n");
  EXPECT_FALSE(http.next());
  EnvelopeAssembler garbage;
  garbage.feed(std::string_view("\x03\x00\x00\x00\xff\xff\xff", 7));
  const auto next = garbage.next();
  ASSERT_FALSE(next);
  EXPECT_NE(next.error().message.find("not an Envelope"), std::string::npos);
}

TEST(Envelope, TooLargeAMessageIsNotEncoded) {
  control::Envelope envelope;
  envelope.mutable_hello()->set_exchange_address(std::string(kMaxEnvelopeBytes, 'x'));
  const auto bytes = encode_envelope(envelope);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, Code::invalid_argument);
}

}  // namespace
}  // namespace guildhall
