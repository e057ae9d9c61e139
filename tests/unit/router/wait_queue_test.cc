#include "router/wait_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace guildhall {
namespace {

using ::testing::ElementsAre;

class WaitQueueTest : public ::testing::Test {
 protected:
  std::unique_ptr<Sequence> make(RequestId id, std::string tenant = "", int32_t priority = 0,
                                 int64_t tokens = 10) {
    auto s = std::make_unique<Sequence>();
    s->id = id;
    s->request.prompt_ids.resize(static_cast<size_t>(tokens));
    s->request.max_tokens = 0;
    s->request.tenant = std::move(tenant);
    s->request.priority = priority;
    return s;
  }
  std::vector<RequestId> take(int64_t n) {
    std::vector<RequestId> ids;
    for (int64_t i = 0; i < n; ++i) {
      const Sequence* next = queue_.next();
      auto taken = queue_.take_next();
      EXPECT_EQ(taken.get(), next);
      ids.push_back(taken->id);
    }
    return ids;
  }
  WaitQueue queue_;
};

TEST_F(WaitQueueTest, OneTenantIsServedInOrder) {
  for (RequestId id : {1, 2, 3}) queue_.add(make(id));
  EXPECT_EQ(queue_.size(), 3);
  EXPECT_THAT(take(3), ElementsAre(1, 2, 3));
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(queue_.next(), nullptr);
}

TEST_F(WaitQueueTest, ALowerPriorityNumberGoesFirst) {
  queue_.add(make(1, "", 3)), queue_.add(make(2, "", -1)), queue_.add(make(3, "", 3)),
      queue_.add(make(4, "", 0));
  EXPECT_THAT(take(4), ElementsAre(2, 4, 1, 3));
}

TEST_F(WaitQueueTest, TenantsTakeTurnsByWorkNotByRequests) {
  for (RequestId id = 1; id <= 6; ++id) queue_.add(make(id, "many", 0, 10));
  for (RequestId id = 11; id <= 12; ++id) queue_.add(make(id, "large", 0, 30));
  EXPECT_THAT(take(8), ElementsAre(1, 11, 2, 3, 4, 12, 5, 6));
}

TEST_F(WaitQueueTest, WhoComesLaterIsNotOwedTheTimeBefore) {
  for (RequestId id = 1; id <= 6; ++id) queue_.add(make(id, "a"));
  take(4);
  for (RequestId id = 11; id <= 13; ++id) queue_.add(make(id, "b"));
  EXPECT_THAT(take(4), ElementsAre(11, 5, 12, 6));
}

TEST_F(WaitQueueTest, WhoSendsOneAtATimeIsNotAheadOfOthers) {
  for (RequestId id = 1; id <= 3; ++id) queue_.add(make(id, "a", 0, 10));
  queue_.add(make(11, "b", 0, 100));
  EXPECT_THAT(take(2), ElementsAre(1, 11));
  queue_.add(make(12, "b", 0, 100));  // it was given 100, a 10
  EXPECT_THAT(take(3), ElementsAre(2, 3, 12));
}

TEST_F(WaitQueueTest, WhatWasPutBackGoesFirstAndIsNotChargedAgain) {
  for (RequestId id : {1, 2}) queue_.add(make(id, "a"));
  queue_.add(make(11, "b"));
  auto first = queue_.take_next();
  queue_.put_back(std::move(first));
  EXPECT_THAT(take(3), ElementsAre(1, 11, 2));
}

TEST_F(WaitQueueTest, RemovesFromAnyLine) {
  queue_.add(make(1, "a")), queue_.add(make(2, "b")), queue_.put_back(make(3, "a"));
  EXPECT_EQ(queue_.remove(2)->id, 2u);
  EXPECT_EQ(queue_.remove(3)->id, 3u);
  EXPECT_EQ(queue_.remove(9), nullptr);
  EXPECT_EQ(queue_.size(), 1);
  EXPECT_THAT(take(1), ElementsAre(1));
}

}  // namespace
}  // namespace guildhall
