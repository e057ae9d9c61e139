#include "router/page_pool.h"

#include <fmt/format.h>

#include "base/check.h"

namespace guildhall {

PagePool::PagePool(int64_t num_pages, int64_t block_size)
    : block_size_(block_size),
      holders_p_(static_cast<size_t>(num_pages)),
      content_p_(static_cast<size_t>(num_pages)) {
  unused_.reserve(static_cast<size_t>(num_pages));
  for (int64_t p = num_pages; p-- > 0;) unused_.push_back(static_cast<int32_t>(p));
}

bool PagePool::grow(std::vector<int32_t>& pages, int64_t num_tokens) {
  const int64_t missing = pages_for(num_tokens) - static_cast<int64_t>(pages.size());
  if (missing > num_free()) return false;
  for (int64_t i = 0; i < missing; ++i) pages.push_back(take());
  return true;
}

int32_t PagePool::take() {
  int32_t page;
  if (!unused_.empty()) {
    page = unused_.back();
    unused_.pop_back();
  } else {
    page = released_.front();
    released_.pop_front();
    Content& content = content_p_[static_cast<size_t>(page)];
    if (content.is_whole)
      for (Watcher* watcher : watchers_) watcher->on_evict(page, content.key);
    page_of_.erase(content.key);
    content.has_key = false;
  }
  holders_p_[static_cast<size_t>(page)] = 1;
  return page;
}

// Last page first: of a sequence, the pages that fewest others can share are given up first.
void PagePool::release(std::vector<int32_t>& pages) {
  for (; !pages.empty(); pages.pop_back()) {
    const int32_t page = pages.back();
    int32_t& holders = holders_p_[static_cast<size_t>(page)];
    GH_CHECK(holders > 0);
    if (--holders > 0) continue;
    Content& content = content_p_[static_cast<size_t>(page)];
    if (!content.has_key) {
      unused_.push_back(page);
      continue;
    }
    content.place = released_.insert(released_.end(), page);
    if (content.is_whole)
      for (Watcher* watcher : watchers_) watcher->on_release(content.key);
  }
}

PagePool::Found PagePool::find(std::span<const PrefixKey> keys) const {
  Found found;
  for (const PrefixKey& key : keys) {
    const auto it = page_of_.find(key);
    if (it == page_of_.end()) break;
    ++found.num_pages;
    found.num_free += holders_p_[static_cast<size_t>(it->second)] == 0;
  }
  return found;
}

void PagePool::hold(std::span<const PrefixKey> keys, std::vector<int32_t>& pages) {
  for (const PrefixKey& key : keys) {
    const int32_t page = page_of_.at(key);
    if (holders_p_[static_cast<size_t>(page)]++ == 0)
      released_.erase(content_p_[static_cast<size_t>(page)].place);
    pages.push_back(page);
  }
}

int32_t PagePool::own(int32_t& page) {
  const int32_t from = page;
  int32_t& holders = holders_p_[static_cast<size_t>(from)];
  GH_CHECK(holders > 0);
  if (holders == 1) return from;
  --holders;
  page = take();
  return from;
}

void PagePool::publish(int32_t page, const PrefixKey& key, bool is_whole) {
  Content& content = content_p_[static_cast<size_t>(page)];
  GH_CHECK(holders_p_[static_cast<size_t>(page)] > 0);
  if (!page_of_.emplace(key, page).second) return;
  if (content.has_key) page_of_.erase(content.key);
  content.key = key;
  content.has_key = true;
  content.is_whole = is_whole;
}

void PagePool::withdraw(const PrefixKey& key) {
  const auto it = announced_.find(key);
  GH_CHECK(it != announced_.end());
  if (--it->second == 0) announced_.erase(it);
}

int64_t PagePool::num_announced() const {
  int64_t n = 0;
  for (const auto& [key, count] : announced_) n += count;
  return n;
}

std::string PagePool::audit(std::span<const std::vector<int32_t>* const> tables) const {
  std::vector<int32_t> holders_p(holders_p_.size()), places_p(holders_p_.size());
  for (const auto* table : tables)
    for (const int32_t page : *table) ++holders_p[static_cast<size_t>(page)];
  for (const int32_t page : unused_) ++places_p[static_cast<size_t>(page)];
  for (const int32_t page : released_) ++places_p[static_cast<size_t>(page)];
  size_t num_keys = 0;
  for (size_t p = 0; p < holders_p.size(); ++p) {
    if (holders_p[p] != holders_p_[p])
      return fmt::format("page {} is in {} block tables, and {} are booked", p, holders_p[p], holders_p_[p]);
    if ((holders_p[p] > 0 ? 1 : 0) + places_p[p] != 1)
      return fmt::format("page {} is held by {} and {} times among the free", p, holders_p[p], places_p[p]);
    const Content& content = content_p_[p];
    if (!content.has_key) continue;
    ++num_keys;
    if (const auto it = page_of_.find(content.key);
        it == page_of_.end() || it->second != static_cast<int32_t>(p))
      return fmt::format("page {} has a key by which it is not found", p);
  }
  if (num_keys != page_of_.size())
    return fmt::format("{} keys are found, {} pages have one", page_of_.size(), num_keys);
  for (const int32_t page : unused_)
    if (content_p_[static_cast<size_t>(page)].has_key)
      return fmt::format("page {} is unused with a key", page);
  return {};
}

}  // namespace guildhall
