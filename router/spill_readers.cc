#include "router/spill_readers.h"

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"

namespace guildhall {
namespace {

// Where computing was not measured yet, and for a disk that hangs.
constexpr double kLongestWaitNs = 10e9;

}  // namespace

SpillReaders::SpillReaders(std::unique_ptr<PageSpill> spill, PagePool& pool)
    : spill_(std::move(spill)), pool_(pool) {}

std::optional<SpillReaders::Plan> SpillReaders::plan(std::span<const PrefixKey> keys, size_t num_there) {
  Plan plan{.num_there = num_there, .num_planned = num_there};
  int64_t num_reads = 0;
  for (size_t block = num_there; block < keys.size(); ++block) {
    if (pool_.is_findable(keys[block])) continue;  // the cache may lack pages before one that it has
    if (!spill_->has(keys[block])) break;
    ++num_reads;
    plan.num_planned = block + 1;
  }
  if (num_reads == 0) return std::nullopt;
  const auto position = static_cast<int64_t>(num_there) * pool_.block_size();
  const auto end = static_cast<int64_t>(plan.num_planned) * pool_.block_size();
  const PageSpill::Verdict verdict = spill_->judge(position, end - position, num_reads);
  plan.compute_ns = verdict.compute_ns;
  return verdict.reads ? std::optional(plan) : std::nullopt;
}

void SpillReaders::add(std::unique_ptr<Sequence> sequence, const Plan& plan) {
  GH_CHECK(sequence->pages.empty());
  const std::span<const PrefixKey> keys = std::span(sequence->keys).first(plan.num_planned);
  pool_.hold(keys.first(plan.num_there), sequence->pages);
  spill_->want(keys.subspan(plan.num_there));
  const bool is_measured = plan.compute_ns > 0 && !spill_->always_reads();
  const double wait_ns = is_measured ? std::min(plan.compute_ns, kLongestWaitNs) : kLongestWaitNs;
  readers_.push_back({.sequence = std::move(sequence),
                      .end = plan.num_planned,
                      .deadline_ns = now_ns() + static_cast<int64_t>(wait_ns)});
}

std::vector<std::unique_ptr<Sequence>> SpillReaders::poll() {
  spill_->poll();
  std::vector<std::unique_ptr<Sequence>> done;
  if (readers_.empty()) return done;
  const int64_t num_read = spill_->counters().read, now = now_ns();
  for (size_t i = 0; i < readers_.size();)
    if (advance(readers_[i], now))
      done.push_back(take_out(readers_.begin() + static_cast<ptrdiff_t>(i)));
    else
      ++i;
  if (spill_->counters().read > num_read) spill_->poll();  // there are buffers again
  return done;
}

// Takes what is there, in the order of the blocks. True: there is no more to wait for.
bool SpillReaders::advance(Reader& r, int64_t now) {
  Sequence& s = *r.sequence;
  while (s.pages.size() < r.end) {
    const PrefixKey& key = s.keys[s.pages.size()];
    const PageSpill::Progress progress = spill_->progress(key);
    if (pool_.is_findable(key)) {
      pool_.hold(std::span(&key, 1), s.pages);
    } else if (progress == PageSpill::Progress::here &&
               pool_.grow(s.pages, static_cast<int64_t>(s.pages.size() + 1) * pool_.block_size())) {
      spill_->take(key, s.pages.back());
      pool_.publish(s.pages.back(), key);
      ++r.num_read;
    } else {
      return progress != PageSpill::Progress::under_way || now >= r.deadline_ns;
    }
    spill_->unwant(key);
  }
  return true;
}

std::unique_ptr<Sequence> SpillReaders::take_out(Readers::const_iterator place) {
  const auto it = readers_.begin() + (place - readers_.cbegin());
  Reader reader = std::move(*it);
  readers_.erase(it);
  Sequence& s = *reader.sequence;
  const std::span<const PrefixKey> keys = std::span(s.keys).first(reader.end);
  for (const PrefixKey& key : keys.subspan(s.pages.size())) spill_->unwant(key);
  spill_->touch(keys);
  num_hits_ += reader.num_read > 0;
  pool_.release(s.pages);
  return std::move(reader.sequence);
}

std::unique_ptr<Sequence> SpillReaders::remove(RequestId id) {
  const auto it = std::ranges::find(readers_, id, [](const Reader& r) { return r.sequence->id; });
  return it == readers_.end() ? nullptr : take_out(it);
}

SpillReaders::Readers::const_iterator SpillReaders::last() const {
  GH_CHECK(!readers_.empty());
  auto last = readers_.begin();
  for (auto it = readers_.begin(); it != readers_.end(); ++it)
    if (it->sequence->request.priority >= last->sequence->request.priority) last = it;
  return last;
}

std::unique_ptr<Sequence> SpillReaders::remove_last() { return take_out(last()); }

int64_t SpillReaders::num_pages_missing() const {
  int64_t n = 0;
  for (const Reader& r : readers_)
    n += pool_.pages_for(static_cast<int64_t>(r.sequence->tokens.size()) + 1) -
         static_cast<int64_t>(r.sequence->pages.size());
  return n;
}

std::string SpillReaders::audit(std::vector<const std::vector<int32_t>*>& tables) const {
  std::vector<PrefixKey> wanted;
  for (const Reader& r : readers_) {
    const Sequence& s = *r.sequence;
    tables.push_back(&s.pages);
    const std::span<const PrefixKey> missing = std::span(s.keys).first(r.end).subspan(s.pages.size());
    wanted.insert(wanted.end(), missing.begin(), missing.end());
  }
  return spill_->audit(wanted);
}

}  // namespace guildhall
