// spill_readers.h: sequences that wait until beginnings of their prompts were read from the spill file. Each
// holds the pages it has so far; what is read is published like what is computed, so that others find it too.
// No one waits longer than computing would take: what the file has not given by then is computed after all.
// Owner: the engine thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "router/page_spill.h"
#include "router/sequence.h"

namespace guildhall {

class SpillReaders {
 public:
  // The pool is the caches'.
  SpillReaders(std::unique_ptr<PageSpill> spill, PagePool& pool);

  // What a sequence might wait for: of its leading blocks, the cache has the first num_there, and will have
  // num_planned.
  struct Plan {
    size_t num_there = 0, num_planned = 0;
    double compute_ns = 0;  // that computing those between would take; 0: not measured
  };
  // For a sequence with these keys; nullopt: there is nothing to read, or computing is expected to be faster.
  std::optional<Plan> plan(std::span<const PrefixKey> keys, size_t num_there);
  // sequence->keys begins with those of the plan.
  void add(std::unique_ptr<Sequence> sequence, const Plan& plan);

  // At each turn of the engine: goes on, and returns those who have what they can get. These hold nothing;
  // they find it in the cache.
  std::vector<std::unique_ptr<Sequence>> poll();
  std::unique_ptr<Sequence> remove(RequestId id);  // nullptr: it is not here
  // The least important, the newest of those. Not when empty.
  std::unique_ptr<Sequence> remove_last();
  int32_t last_priority() const { return last()->sequence->request.priority; }

  bool empty() const { return readers_.empty(); }
  int64_t size() const { return static_cast<int64_t>(readers_.size()); }
  // Pages that they do not hold yet and will ask for.
  int64_t num_pages_missing() const;
  int64_t num_hits() const { return num_hits_; }  // who left with a page from the file
  PageSpill& spill() { return *spill_; }
  const PageSpill& spill() const { return *spill_; }

  // Appends their block tables. What is wrong in the books, or nothing.
  std::string audit(std::vector<const std::vector<int32_t>*>& tables) const;

 private:
  struct Reader {
    std::unique_ptr<Sequence> sequence;
    size_t end = 0;  // blocks it waits for; it wants those from the number of its pages on
    int64_t deadline_ns = 0;
    int64_t num_read = 0;
  };
  using Readers = std::vector<Reader>;

  Readers::const_iterator last() const;
  bool advance(Reader& reader, int64_t now);
  std::unique_ptr<Sequence> take_out(Readers::const_iterator place);

  const std::unique_ptr<PageSpill> spill_;
  PagePool& pool_;
  Readers readers_;  // the oldest first
  int64_t num_hits_ = 0;
};

}  // namespace guildhall
