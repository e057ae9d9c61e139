// page_pool.h: the pages of a KV cache: how many sequences hold each, and which pages can be found again by
// what they hold (prefix caching). A page that nobody holds but that has a key stays as it is until its
// memory is needed; the one released longest ago goes first. Owner: the engine thread.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "router/prefix_key.h"

namespace guildhall {

class PagePool {
 public:
  PagePool(int64_t num_pages, int64_t block_size);

  int64_t block_size() const { return block_size_; }
  int64_t num_pages() const { return static_cast<int64_t>(holders_p_.size()); }
  int64_t num_free() const {
    return static_cast<int64_t>(unused_.size() + released_.size());
  }                                                                               // held by nobody
  int64_t num_findable() const { return static_cast<int64_t>(page_of_.size()); }  // by their keys
  int64_t pages_for(int64_t num_tokens) const { return (num_tokens + block_size_ - 1) / block_size_; }

  // Grows `pages` until it covers num_tokens; false (and unchanged) when there are too few free pages.
  bool grow(std::vector<int32_t>& pages, int64_t num_tokens);
  // The holder lets go of all of `pages`, and clears it.
  void release(std::vector<int32_t>& pages);

  // The leading keys whose pages are there, and how many of those pages are free now.
  struct Found {
    int64_t num_pages = 0, num_free = 0;
  };
  Found find(std::span<const PrefixKey> keys) const;
  bool is_findable(const PrefixKey& key) const { return page_of_.contains(key); }
  int32_t page_of(const PrefixKey& key) const { return page_of_.at(key); }  // which is findable
  // Holds the pages of these keys, which find() found, and appends them to `pages`.
  void hold(std::span<const PrefixKey> keys, std::vector<int32_t>& pages);
  // `page`, of a block table, will be written: becomes one that nobody else holds. If others do, there must
  // be a free page for it; it is to be copied from the one returned, which they keep.
  int32_t own(int32_t& page);
  // From now on `page`, which is held, is found by `key`, and no more by another; unless another page already
  // is. What the key speaks of is never written again; what comes after it in the page may be, unless the
  // page is whole.
  void publish(int32_t page, const PrefixKey& key, bool is_whole = true);

  // Told of whole pages with keys. It must not change the pool.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // The page's memory is needed: it is found no more when this returns.
    virtual void on_evict(int32_t page, const PrefixKey& key) = 0;
    // Nobody holds it any more.
    virtual void on_release(const PrefixKey&) {}
  };
  void watch(Watcher& watcher) { watchers_.push_back(&watcher); }
  void unwatch(Watcher& watcher) { std::erase(watchers_, &watcher); }

  // A sequence is computing the page of `key`: others may wait for it. As often withdrawn as announced.
  void announce(const PrefixKey& key) { ++announced_[key]; }
  void withdraw(const PrefixKey& key);
  bool is_announced(const PrefixKey& key) const { return announced_.contains(key); }
  int64_t num_announced() const;

  // Checks the books against all block tables there are: what is wrong, or nothing.
  std::string audit(std::span<const std::vector<int32_t>* const> tables) const;

 private:
  struct Content {
    PrefixKey key;
    bool has_key = false, is_whole = false;
    std::list<int32_t>::iterator place;  // in released_, when nobody holds the page
  };
  int32_t take();

  int64_t block_size_;
  std::vector<Watcher*> watchers_;
  std::vector<int32_t> holders_p_;  // sequences that hold the page
  std::vector<Content> content_p_;
  std::vector<int32_t> unused_;  // free, without a key. A stack: recently used pages are reused first
  std::list<int32_t> released_;  // free, with a key; the longest ago in front
  std::unordered_map<PrefixKey, int32_t, PrefixKeyHash> page_of_;
  std::unordered_map<PrefixKey, int32_t, PrefixKeyHash> announced_;
};

}  // namespace guildhall
