// nccl_signal_test.cc: signals and offers, there and back, and what is refused.
#include "transport/nccl_signal.h"

#include <gmock/gmock.h>

#include <cstring>

namespace guildhall {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> signal(const SignalHeader& header, size_t body_bytes) {
  std::vector<std::byte> bytes(sizeof header + body_bytes);
  encode_signal(header, bytes);
  return bytes;
}

TEST(NcclSignal, ComesBackAsItWas) {
  const SignalHeader header{.kind = 1,
                            .link = 3,
                            .generation = 9,
                            .of_sender = 1,
                            .ack_generation = 8,
                            .ack_count = 77,
                            .sequence = 1234567890123,
                            .bytes = 5000,
                            .wire_bytes = 8192};
  const auto back = decode_signal(signal(header, 0));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->link, 3u);
  EXPECT_EQ(back->generation, 9u);
  EXPECT_EQ(back->ack_count, 77u);
  EXPECT_EQ(back->sequence, 1234567890123u);
  EXPECT_EQ(back->bytes, 5000u);
  EXPECT_EQ(back->wire_bytes, 8192u);
}

TEST(NcclSignal, WhatIsOutOfBoundsIsNamed) {
  const SignalHeader good{.kind = 0, .link = 1, .bytes = 10};
  ASSERT_TRUE(decode_signal(signal(good, 10)));
  const auto refused = [&](size_t body_bytes, auto change) {
    auto bytes = signal(good, body_bytes);
    SignalHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    change(header);
    std::memcpy(bytes.data(), &header, sizeof header);
    const auto decoded = decode_signal(bytes);
    return decoded ? std::string("taken") : decoded.error().message;
  };
  EXPECT_THAT(refused(10, [](SignalHeader& h) { h.magic ^= 1; }), HasSubstr("magic"));
  EXPECT_THAT(refused(10, [](SignalHeader& h) { h.version = 3; }), HasSubstr("version 3"));
  EXPECT_THAT(refused(10, [](SignalHeader& h) { h.kind = kNumSignalKinds; }), HasSubstr("kind 10"));
  EXPECT_THAT(refused(10, [](SignalHeader& h) { h.link = 0; }), HasSubstr("link 0"));
  EXPECT_THAT(refused(10, [](SignalHeader& h) { h.of_sender = 2; }), HasSubstr("of_sender 2"));
  EXPECT_THAT(refused(9, [](SignalHeader&) {}), HasSubstr("says 10 bytes, 9 came"));
  EXPECT_THAT(refused(10, [](SignalHeader& h) { h.kind = 1; }), HasSubstr("10 came"));
  EXPECT_THAT(decode_signal(std::vector<std::byte>(63)).error().message, HasSubstr("63 bytes"));
}

TEST(NcclSignal, OffersComeBackAndWrongOnesAreRefused) {
  CommOffer offer{.rank = 2, .num_ranks = 5, .parent_generation = 7, .excluded = {1, 4}};
  offer.back[100] = std::byte{9};
  const auto decode = [](const std::string& bytes) { return decode_offer(std::as_bytes(std::span(bytes))); };
  const auto back = decode(encode_offer(offer));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->rank, 2u);
  EXPECT_EQ(back->back, offer.back);
  EXPECT_EQ(back->excluded, offer.excluded);
  const auto wrong = [&](auto change) {
    CommOffer changed = offer;
    change(changed);
    return decode(encode_offer(changed)).has_error();
  };
  EXPECT_TRUE(wrong([](CommOffer& o) { o.rank = 0; }));
  EXPECT_TRUE(wrong([](CommOffer& o) { o.rank = 5; }));
  EXPECT_TRUE(wrong([](CommOffer& o) { o.num_ranks = kMaxRanks + 1; }));
  EXPECT_TRUE(wrong([](CommOffer& o) { o.parent_generation = 0; }));
  EXPECT_TRUE(wrong([](CommOffer& o) { o.excluded = {4, 1}; }));
  EXPECT_TRUE(wrong([](CommOffer& o) { o.excluded = {0}; }));
  std::string cut = encode_offer(offer);
  while (!cut.empty()) {
    cut.pop_back();
    EXPECT_TRUE(decode(cut).has_error()) << cut.size();
  }
}

TEST(NcclSignal, BucketsAreFewAndNotMuchTooLong) {
  EXPECT_EQ(bucket_bytes(0), 4096u);
  EXPECT_EQ(bucket_bytes(4096), 4096u);
  EXPECT_EQ(bucket_bytes(4097), 4608u);
  for (size_t bytes : {5000, 8192, 8193, 14336, 65536, 65537, 1 << 20, (1 << 20) + 1, 123456789}) {
    const size_t bucket = bucket_bytes(bytes);
    EXPECT_GE(bucket, bytes);
    EXPECT_LE(bucket, bytes + bytes / 8 + 1);
    EXPECT_EQ(bucket_bytes(bucket), bucket);
  }
}

TEST(NcclSignal, CapacitiesArePowersOfTwoThatAReceiverMayBeAskedFor) {
  EXPECT_EQ(capacity_bytes(1), 16384u);
  EXPECT_EQ(capacity_bytes(16385), 32768u);
  EXPECT_EQ(capacity_bytes(1 << 20), size_t{1} << 20);
  for (size_t largest : {1, 5000, 70000, 1 << 20, 123456789})
    for (size_t bytes : {size_t{1}, largest / 2, largest}) {
      EXPECT_LE(capacity_bytes(bytes), most_wire_bytes(largest));
      EXPECT_LE(bucket_bytes(bytes), most_wire_bytes(largest));
    }
}

}  // namespace
}  // namespace guildhall
