#include "router/page_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

namespace guildhall {
namespace {

using ::testing::ElementsAre;
using Pages = std::vector<int32_t>;

std::vector<PrefixKey> keys_of(const std::vector<int32_t>& tokens, std::string_view salt = "") {
  std::vector<PrefixKey> keys;
  extend_prefix_keys(tokens, 4, salt, keys);
  return keys;
}

TEST(PrefixKeys, AreOfFullBlocksAndAllThatIsBefore) {
  const auto keys = keys_of({1, 2, 3, 4, 5, 6, 7, 8, 9});
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0], keys_of({1, 2, 3, 4})[0]);
  EXPECT_EQ(keys[1], keys_of({1, 2, 3, 4, 5, 6, 7, 8})[1]);
  EXPECT_NE(keys[1], keys_of({0, 2, 3, 4, 5, 6, 7, 8})[1]);
  EXPECT_NE(keys[0], keys_of({1, 2, 3, 4}, "another tenant")[0]);
  EXPECT_NE(keys_of({1, 1, 1, 1, 1, 1, 1, 1})[0], keys_of({1, 1, 1, 1, 1, 1, 1, 1})[1]);
}

TEST(PagePool, GrowsByWholePagesOrNotAtAll) {
  PagePool pool(4, 4);
  Pages pages, other;
  EXPECT_TRUE(pool.grow(pages, 5));
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_TRUE(pool.grow(pages, 8));
  EXPECT_EQ(pages.size(), 2u);
  EXPECT_FALSE(pool.grow(other, 12));
  EXPECT_TRUE(other.empty());
  pool.release(pages);
  EXPECT_EQ(pool.num_free(), 4);
  EXPECT_TRUE(pool.grow(other, 16));
}

TEST(PagePool, FindsWhatWasPublishedAlsoAfterItsHolderLeft) {
  PagePool pool(4, 4);
  const auto keys = keys_of({1, 2, 3, 4, 5, 6, 7, 8});
  Pages first, second;
  pool.grow(first, 8);
  pool.publish(first[0], keys[0]);
  EXPECT_EQ(pool.find(keys).num_pages, 1);
  EXPECT_EQ(pool.find(keys).num_free, 0);
  pool.hold(std::span(keys).first(1), second);
  EXPECT_EQ(second, Pages{first[0]});
  pool.release(first);
  EXPECT_EQ(pool.num_free(), 3);
  pool.release(second);
  EXPECT_EQ(pool.num_free(), 4);
  EXPECT_EQ(pool.find(keys).num_pages, 1);
  EXPECT_EQ(pool.find(keys).num_free, 1);
}

TEST(PagePool, GivesUpThePageReleasedLongestAgo) {
  PagePool pool(3, 4);
  const auto a = keys_of({1, 2, 3, 4, 5, 6, 7, 8}), b = keys_of({9, 9, 9, 9});
  Pages first, second, third;
  pool.grow(first, 8);
  pool.publish(first[0], a[0]), pool.publish(first[1], a[1]);
  pool.grow(second, 4);
  pool.publish(second[0], b[0]);
  pool.release(first);  // its last page counts as the older one
  pool.release(second);
  pool.grow(third, 4);
  EXPECT_EQ(pool.find(a).num_pages, 1);
  EXPECT_EQ(pool.find(b).num_pages, 1);
  Pages held;
  pool.hold(std::span(a).first(1), held);  // now b is the only one that may go
  pool.grow(third, 8);
  EXPECT_EQ(pool.find(a).num_pages, 1);
  EXPECT_EQ(pool.find(b).num_pages, 0);
  EXPECT_FALSE(pool.grow(third, 12));
}

TEST(PagePool, TellsOfWholePagesThatAreReleasedAndGivenUp) {
  struct Heard final : PagePool::Watcher {
    void on_evict(int32_t page, const PrefixKey& key) override { evicted.emplace_back(page, key); }
    void on_release(const PrefixKey& key) override { released.push_back(key); }
    std::vector<std::pair<int32_t, PrefixKey>> evicted;
    std::vector<PrefixKey> released;
  } heard;
  PagePool pool(3, 4);
  const auto keys = keys_of({1, 2, 3, 4, 5, 6, 7, 8});
  const auto part = last_block_key(std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}, 4, "", keys);
  Pages first, second;
  pool.grow(first, 12);
  pool.publish(first[0], keys[0]), pool.publish(first[1], keys[1]);
  pool.publish(first[2], part, /*is_whole=*/false);
  const Pages pages = first;
  pool.watch(heard);
  pool.release(first);
  EXPECT_EQ(heard.released, (std::vector<PrefixKey>{keys[1], keys[0]}));
  pool.grow(second, 8);
  EXPECT_EQ(heard.evicted, (std::vector<std::pair<int32_t, PrefixKey>>{{pages[1], keys[1]}}));
  pool.unwatch(heard);
  pool.grow(second, 12);
  EXPECT_EQ(heard.evicted.size(), 1u);
}

TEST(PagePool, OfTwoPagesWithTheSameContentOneIsFound) {
  PagePool pool(2, 4);
  const auto keys = keys_of({1, 2, 3, 4});
  Pages first, second;
  pool.grow(first, 4), pool.grow(second, 4);
  pool.publish(first[0], keys[0]), pool.publish(second[0], keys[0]);
  EXPECT_EQ(pool.num_findable(), 1);
  pool.release(second);
  Pages third;
  pool.hold(keys, third);
  EXPECT_EQ(third, first);
}

TEST(PagePool, APageThatOthersHoldIsWrittenOnlyByWhoOwnsIt) {
  PagePool pool(3, 4);
  const auto keys = keys_of({1, 2, 3, 4});
  Pages first, second;
  pool.grow(first, 3);
  pool.publish(first[0], keys[0]);
  EXPECT_EQ(pool.own(first[0]), first[0]);  // nobody else holds it
  pool.hold(keys, second);
  const int32_t shared = first[0];
  EXPECT_EQ(pool.own(second[0]), shared);
  EXPECT_NE(second[0], shared);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.audit(std::vector<const Pages*>{&first, &second}), "");
  pool.release(second);
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(PagePool, APageIsFoundByItsNewestKey) {
  PagePool pool(2, 4);
  const auto part = last_block_key(std::vector<int32_t>{1, 2, 3}, 4, "", {});
  const auto keys = keys_of({1, 2, 3, 4});
  EXPECT_NE(part, keys[0]);
  EXPECT_EQ(last_block_key(std::vector<int32_t>{1, 2, 3, 4}, 4, "", {}), keys[0]);
  Pages pages, other;
  pool.grow(pages, 3), pool.grow(other, 3);
  pool.publish(pages[0], part);
  EXPECT_TRUE(pool.is_findable(part));
  pool.publish(pages[0], keys[0]);
  EXPECT_FALSE(pool.is_findable(part));
  pool.publish(other[0], part);
  pool.publish(other[0], keys[0]);  // there is one already: stays as it was
  EXPECT_TRUE(pool.is_findable(part));
  EXPECT_EQ(pool.audit(std::vector<const Pages*>{&pages, &other}), "");
}

TEST(PagePool, TheAuditNamesWhatIsWrong) {
  PagePool pool(2, 4);
  Pages pages, copy;
  pool.grow(pages, 8);
  EXPECT_EQ(pool.audit(std::vector<const Pages*>{&pages}), "");
  EXPECT_EQ(pool.audit({}), "page 0 is in 0 block tables, and 1 are booked");
  copy = {1};
  EXPECT_EQ(pool.audit(std::vector<const Pages*>{&pages, &copy}),
            "page 1 is in 2 block tables, and 1 are booked");
}

TEST(PagePool, AnnouncementsAreCounted) {
  PagePool pool(1, 4);
  const auto keys = keys_of({1, 2, 3, 4});
  pool.announce(keys[0]), pool.announce(keys[0]);
  pool.withdraw(keys[0]);
  EXPECT_TRUE(pool.is_announced(keys[0]));
  pool.withdraw(keys[0]);
  EXPECT_FALSE(pool.is_announced(keys[0]));
}

// Against a model of it: who holds which page, and what each page holds.
TEST(PagePool, KeepsItsBooksOverRandomUse) {
  constexpr int32_t kNumPages = 12;
  std::mt19937 random(1);
  PagePool pool(kNumPages, 4);
  struct Holder {
    std::vector<PrefixKey> keys;
    Pages pages;
    size_t published;
  };
  std::vector<Holder> holders;
  std::map<int32_t, PrefixKey> content;
  for (int round = 0; round < 20'000; ++round) {
    if (random() % 2 == 0 || holders.empty()) {
      std::vector<int32_t> tokens(4 * (1 + random() % 5));
      for (size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = i % 4 == 0 ? static_cast<int32_t>(random() % 2) : 0;
      Holder h{keys_of(tokens), {}, 0};
      const auto found = static_cast<size_t>(pool.find(h.keys).num_pages);
      pool.hold(std::span(h.keys).first(found), h.pages);
      for (size_t i = 0; i < found; ++i) ASSERT_EQ(content[h.pages[i]], h.keys[i]);
      h.published = found;
      if (!pool.grow(h.pages, static_cast<int64_t>(tokens.size()))) {
        pool.release(h.pages);
        continue;
      }
      for (size_t i = found; i < h.pages.size(); ++i) content[h.pages[i]] = h.keys[i];
      holders.push_back(std::move(h));
    } else if (random() % 2 == 0) {
      Holder& h = holders[random() % holders.size()];
      if (h.published < h.pages.size()) {
        pool.publish(h.pages[h.published], h.keys[h.published]);
        ++h.published;
      }
    } else {
      const size_t who = random() % holders.size();
      pool.release(holders[who].pages);
      holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(who));
    }
    std::vector<bool> held(kNumPages);
    for (const Holder& h : holders)
      for (int32_t page : h.pages) held[static_cast<size_t>(page)] = true;
    ASSERT_EQ(pool.num_free(), std::count(held.begin(), held.end(), false));
  }
}

}  // namespace
}  // namespace guildhall
