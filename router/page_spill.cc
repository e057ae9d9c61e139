#include "router/page_spill.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

namespace guildhall {
namespace {

int64_t page_bytes_of(const std::vector<RankCache>& cache_r) {
  int64_t bytes = 0;
  for (const RankCache& rank : cache_r) bytes += rank.cache->page_bytes();
  return bytes;
}

}  // namespace

Result<std::unique_ptr<PageSpill>> PageSpill::create(SpillOptions options, std::vector<RankCache> cache_r,
                                                     std::function<void()> wake) {
  const int64_t page_bytes = page_bytes_of(cache_r);
  GH_ASSIGN(auto file, SpillFile::create({options.folder, options.size_bytes, page_bytes}));
  const int64_t num_buffers = std::max(kMinBuffers, options.buffer_bytes / page_bytes);
  GH_ASSIGN(MemoryBlock memory, cache_r[0].ops->memory().allocate_pinned(num_buffers * page_bytes));
  options.buffer_bytes = num_buffers * page_bytes;
  return std::unique_ptr<PageSpill>(new PageSpill(std::move(options), std::move(cache_r), std::move(wake),
                                                  std::move(file), std::move(memory)));
}

PageSpill::PageSpill(SpillOptions options, std::vector<RankCache> cache_r, std::function<void()> wake,
                     std::unique_ptr<SpillFile> file, MemoryBlock memory)
    : options_(std::move(options)),
      cache_r_(std::move(cache_r)),
      pool_(cache_r_[0].cache->pool()),
      page_bytes_(page_bytes_of(cache_r_)),
      file_(std::move(file)),
      memory_(std::move(memory)),
      num_buffers_(options_.buffer_bytes / page_bytes_),
      index_(file_->num_slots()),
      policy_(options_.always_reads ? Preemption::swap : Preemption::measured),
      io_(*file_, std::move(wake)) {
  for (int64_t i = num_buffers_; i-- > 0;) free_buffers_.push_back(static_cast<int32_t>(i));
  pool_.watch(*this);
}

PageSpill::~PageSpill() { pool_.unwatch(*this); }

std::span<std::byte> PageSpill::buffer(int32_t i) const {
  return {memory_.get() + i * page_bytes_, static_cast<size_t>(page_bytes_)};
}

int32_t PageSpill::take_buffer() {
  const int32_t i = free_buffers_.back();
  free_buffers_.pop_back();
  return i;
}

void PageSpill::poll() {
  for (const SpillIo::Done& done : io_.collect())
    done.job.kind == SpillIo::Kind::write ? end_write(done) : end_read(done);
  if (is_on_) write_ahead();
  end_transfers();
  submit_reads();
}

// Between steps: devices have nothing else to do, and pages that were copied are free to be overwritten.
void PageSpill::end_transfers() {
  if (downloads_.empty() && uploads_.empty()) return;
  for (const RankCache& rank : cache_r_) rank.ops->wait(rank.ops->mark(), "wait spill");
  for (const SpillIo::Job& job : downloads_) io_.submit(job);
  downloads_.clear();
  free_buffers_.insert(free_buffers_.end(), uploads_.begin(), uploads_.end());
  uploads_.clear();
}

// ---- writing

void PageSpill::on_release(const PrefixKey& key) {
  if (!is_on_ || index_.is_known(key) || place_of_.contains(key)) return;
  place_of_[key] = unwritten_.insert(unwritten_.end(), key);
}

void PageSpill::on_evict(int32_t page, const PrefixKey& key) {
  if (!is_on_ || index_.is_known(key)) return;
  if (!write(page, key)) ++counters_.dropped;
  if (const auto it = place_of_.find(key); it != place_of_.end()) {
    unwritten_.erase(it->second);
    place_of_.erase(it);
  }
}

// Begins to; false: there is no buffer or no slot for it.
bool PageSpill::write(int32_t page, const PrefixKey& key) {
  if (free_buffers_.empty() || 2 * (num_writes_ + 1) > num_buffers_) return false;
  const std::optional<int64_t> slot = index_.begin_write(key);
  if (!slot) return false;
  const int32_t to = take_buffer();
  ++num_writes_;
  std::byte* host = buffer(to).data();
  for (const RankCache& rank : cache_r_) {
    download_page(rank, page, host);
    host += rank.cache->page_bytes();
  }
  downloads_.push_back({SpillIo::Kind::write, key, *slot, to, buffer(to)});
  return true;
}

// Until a quarter of all pages can be given up at no loss: unused, or in the file too.
void PageSpill::write_ahead() {
  const auto is_enough = [&] {
    return 4 * (pool_.num_free() - static_cast<int64_t>(unwritten_.size())) >= pool_.num_pages();
  };
  while (!unwritten_.empty() && !is_enough()) {
    const PrefixKey key = unwritten_.front();
    const bool is_gone = !pool_.is_findable(key) || index_.is_known(key);
    if (!is_gone && !write(pool_.page_of(key), key)) return;
    place_of_.erase(key);
    unwritten_.pop_front();
  }
}

void PageSpill::end_write(const SpillIo::Done& done) {
  free_buffers_.push_back(done.job.buffer);
  --num_writes_;
  if (!is_on_) return;
  if (done.result.has_error()) return turn_off(done.result.error());
  index_.end_write(done.job.key);
  ++counters_.written;
}

void PageSpill::turn_off(const Status& why) {
  log_warn("spill_off", "replica={} folder={} reason=\"{}\": evicted pages are computed again from now on",
           options_.name, options_.folder.string(), why.message);
  is_on_ = false;
  for (auto& [key, read] : reads_)
    if (read.state == Read::State::queued) read.state = Read::State::over;
  queue_.clear(), unwritten_.clear(), place_of_.clear();
  index_ = SpillIndex(0);
  file_->clear();
}

// ---- reading

bool PageSpill::has(const PrefixKey& key) const {
  const auto read = reads_.find(key);
  return index_.is_written(key) || (read != reads_.end() && read->second.state != Read::State::over);
}

// One waits for what is being read already, too.
PageSpill::Verdict PageSpill::judge(int64_t position, int64_t num_tokens, int64_t num_pages) {
  const int64_t num_ahead = static_cast<int64_t>(queue_.size());
  const SwapPolicy::Work work{
      .num_tokens = num_tokens, .bytes = (num_pages + num_ahead) * page_bytes_, .position = position};
  return {policy_.swaps(work), policy_.compute_ns(work)};
}

void PageSpill::want(std::span<const PrefixKey> keys) {
  for (const PrefixKey& key : keys) {
    const auto [it, is_new] = reads_.try_emplace(key);
    ++it->second.num_wanting;
    if (is_new) it->second.place = queue_.insert(queue_.end(), key);
  }
  submit_reads();
}

void PageSpill::unwant(const PrefixKey& key) {
  const auto it = reads_.find(key);
  GH_CHECK(it != reads_.end());
  Read& read = it->second;
  if (--read.num_wanting > 0 || read.state == Read::State::reading) return;
  if (read.state == Read::State::queued) queue_.erase(read.place);
  if (read.state == Read::State::here) free_buffers_.push_back(read.buffer);
  reads_.erase(it);
}

PageSpill::Progress PageSpill::progress(const PrefixKey& key) const {
  switch (reads_.at(key).state) {
    case Read::State::here:
      return Progress::here;
    case Read::State::over:
      return Progress::over;
    default:
      return Progress::under_way;
  }
}

void PageSpill::submit_reads() {
  while (!queue_.empty() && !free_buffers_.empty()) {
    const PrefixKey key = queue_.front();
    queue_.pop_front();
    Read& read = reads_.at(key);
    const bool is_useful = index_.is_written(key) && !pool_.is_findable(key);  // both may have changed
    read.state = is_useful ? Read::State::reading : Read::State::over;
    if (!is_useful) continue;
    read.buffer = take_buffer();
    io_.submit({SpillIo::Kind::read, key, index_.begin_read(key), read.buffer, buffer(read.buffer)});
  }
}

void PageSpill::end_read(const SpillIo::Done& done) {
  const auto it = reads_.find(done.job.key);
  GH_CHECK(it != reads_.end());
  Read& read = it->second;
  if (is_on_) index_.end_read(done.job.key);
  if (is_on_ && done.result.has_error()) {
    log_warn("spill_damaged", "replica={} reason=\"{}\": computed again", options_.name,
             done.result.error().message);
    index_.erase(done.job.key);
    ++counters_.damaged;
  }
  read.state = done.result.has_error() ? Read::State::over : Read::State::here;
  read.ns = done.ns;
  if (read.state == Read::State::over) free_buffers_.push_back(std::exchange(read.buffer, kNone));
  if (read.num_wanting > 0) return;
  if (read.state == Read::State::here) free_buffers_.push_back(read.buffer);
  reads_.erase(it);
}

void PageSpill::take(const PrefixKey& key, int32_t page) {
  Read& read = reads_.at(key);
  GH_CHECK(read.state == Read::State::here);
  const int64_t begin = now_ns();
  const std::byte* host = buffer(read.buffer).data();
  for (const RankCache& rank : cache_r_) {
    upload_page(rank, host, page);
    host += rank.cache->page_bytes();
  }
  uploads_.push_back(std::exchange(read.buffer, kNone));
  read.state = Read::State::over;
  policy_.record_copy(SwapPolicy::Direction::in, page_bytes_, read.ns + now_ns() - begin);
  ++counters_.read;
}

std::string PageSpill::audit(std::span<const PrefixKey> wanted) const {
  std::unordered_map<PrefixKey, int64_t, PrefixKeyHash> num_wanting;
  for (const PrefixKey& key : wanted) ++num_wanting[key];
  auto num_buffers = static_cast<int64_t>(free_buffers_.size() + uploads_.size()) + num_writes_;
  size_t num_queued = 0;
  for (const auto& [key, read] : reads_) {
    const auto it = num_wanting.find(key);
    const int64_t booked = it == num_wanting.end() ? 0 : it->second;
    if (read.num_wanting != booked)
      return fmt::format("{} wait for a spilled page, {} are booked", booked, read.num_wanting);
    if (booked == 0 && read.state != Read::State::reading) return "a spilled page is kept for nobody";
    num_buffers += read.buffer != kNone;
    num_queued += read.state == Read::State::queued;
    num_wanting.erase(key);
  }
  if (!num_wanting.empty()) return fmt::format("{} spilled pages are awaited by mistake", num_wanting.size());
  if (num_queued != queue_.size())
    return fmt::format("{} reads are queued, {} are listed", num_queued, queue_.size());
  if (num_buffers != num_buffers_)
    return fmt::format("{} of {} spill buffers are accounted for", num_buffers, num_buffers_);
  if (unwritten_.size() != place_of_.size()) return "unwritten pages are listed wrongly";
  return index_.audit();
}

}  // namespace guildhall
