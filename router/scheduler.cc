#include "router/scheduler.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace guildhall {
namespace {

// Positions of [begin, end) that predict a prompt token whose log-probability was not reported yet.
struct PositionRange {
  int64_t begin, end;
};
PositionRange unscored_prompt(const Sequence& s, int64_t begin, int64_t end) {
  begin = std::max(begin, s.num_prompt_scored);
  end = std::min(end, s.prompt_len() - 1);
  return s.wants_prompt_scores() && begin < end ? PositionRange{begin, end} : PositionRange{0, 0};
}

// Positions of [begin, end) that are the prompt's and whose experts are to be reported.
PositionRange unrouted_prompt(const Sequence& s, int64_t begin, int64_t end) {
  begin = std::max(begin, s.num_prompt_routed);
  end = std::min(end, s.prompt_len());
  return s.request.prompt_routed_experts && begin < end ? PositionRange{begin, end} : PositionRange{0, 0};
}

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, std::vector<RankCache> cache_r,
                     std::unique_ptr<PageSpill> spill)
    : options_(options),
      cache_r_(std::move(cache_r)),
      cache_(*cache_r_[0].cache),
      pool_(cache_r_[0].cache->pool()),
      swap_(cache_.num_swap_pages() > 0 ? std::make_unique<PageSwap>(cache_r_, options.preemption) : nullptr),
      readers_(spill != nullptr ? std::make_unique<SpillReaders>(std::move(spill), pool_) : nullptr),
      step_budget_(options.max_batched_tokens, options.target_itl) {}

std::unique_ptr<Sequence> Scheduler::remove(RequestId id) {
  const auto it = std::ranges::find(running_, id, [](const auto& s) { return s->id; });
  if (it != running_.end()) {
    auto sequence = std::move(*it);
    running_.erase(it);
    let_go(*sequence);
    return sequence;
  }
  if (readers_ != nullptr)
    if (auto sequence = readers_->remove(id)) return sequence;
  auto sequence = waiting_.remove(id);
  if (sequence && swap_ != nullptr) swap_->forget(*sequence);
  return sequence;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::remove_all() {
  std::vector<std::unique_ptr<Sequence>> all;
  while (!running_.empty()) all.push_back(remove(running_.front()->id));
  while (num_reading() > 0) all.push_back(readers_->remove_last());
  while (!waiting_.empty()) all.push_back(remove(waiting_.next()->id));
  return all;
}

void Scheduler::poll() {
  if (readers_ == nullptr) return;
  auto done = readers_->poll();
  for (; !done.empty(); done.pop_back()) waiting_.put_back(std::move(done.back()));
}

const std::vector<ScheduledChunk>& Scheduler::schedule(StepBatch& batch) {
  chunks_.clear();
  make_way();
  int64_t budget = step_budget_.tokens(num_decoding());
  schedule_running(budget);
  admit_waiting(budget);
  if (readers_ != nullptr) readers_->spill().end_transfers();
  fill(batch);
  return chunks_;
}

int64_t Scheduler::num_decoding() const {
  return std::ranges::count_if(running_, [](const auto& s) { return s->num_pending() == 1; });
}

// Takes the room of those that are less important than who waits next, as far as it needs it.
void Scheduler::make_way() {
  while (!waiting_.empty()) {
    const Sequence& next = *waiting_.next();
    const bool a_reader = num_reading() > 0 && readers_->last_priority() > next.request.priority;
    const bool a_running = !running_.empty() && running_.back()->request.priority > next.request.priority;
    if (!a_reader && !a_running) return;
    const int64_t wanted = pool_.pages_for(static_cast<int64_t>(next.tokens.size()) + 1);
    if (num_running() + num_reading() < options_.max_sequences &&
        wanted + reserved_pages() <= pool_.num_free())
      return;
    a_reader ? waiting_.put_back(readers_->remove_last()) : preempt_last(Kind::cheapest);
  }
}

// Decodes first (one token each, in the order of running_), then chunks of the prompts that are still being
// read.
void Scheduler::schedule_running(int64_t& budget) {
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
      Sequence& s = *running_[i];
      if ((s.num_pending() == 1) != decoding) continue;
      const int64_t num_tokens = std::min(s.num_pending(), budget);
      if (!make_room(s, s.num_computed + num_tokens)) break;  // it was itself the last: preempted
      chunks_.push_back({&s, num_tokens});
      budget -= num_tokens;
    }
  }
}

// Takes pages from those that do not run yet, then preempts later sequences until `sequence` has pages for
// num_tokens. False when it had to go itself.
bool Scheduler::make_room(Sequence& sequence, int64_t num_tokens) {
  while (!pool_.grow(sequence.pages, num_tokens)) {
    if (num_reading() > 0) {
      waiting_.put_back(readers_->remove_last());
      continue;
    }
    const bool self = running_.back().get() == &sequence;
    preempt_last(Kind::cheapest);
    if (self) return false;
  }
  return true;
}

void Scheduler::preempt_last(Kind kind) {
  auto sequence = std::move(running_.back());
  running_.pop_back();
  std::erase_if(chunks_, [&](const ScheduledChunk& c) { return c.sequence == sequence.get(); });
  const bool kept = kind == Kind::cheapest && swap_ != nullptr && swap_->keep(*sequence);
  ++(kept ? counters_.swapped : counters_.recomputed);
  let_go(*sequence);
  waiting_.put_back(std::move(sequence));
}

void Scheduler::preempt_all() {
  while (!running_.empty()) preempt_last(Kind::recompute);
}

// Whose turn it is waits until all its tokens fit, so that it is never overtaken by others of its priority,
// but while it reads; its place among those that run is kept then.
void Scheduler::admit_waiting(int64_t& budget) {
  while (!waiting_.empty() && budget > 0 && num_running() + num_reading() < options_.max_sequences) {
    Sequence& s = *waiting_.next();
    SpillReaders::Plan plan;
    const Admission admission = admit(s, plan);
    if (admission == Admission::not_yet) return;
    if (admission == Admission::reads) {
      s.has_read = true;
      readers_->add(waiting_.take_next(), plan);
      continue;
    }
    const int64_t num_tokens = std::min(s.num_pending(), budget);
    const auto place = std::ranges::upper_bound(running_, s.request.priority, {},
                                                [](const auto& r) { return r->request.priority; });
    running_.insert(place, waiting_.take_next());
    chunks_.push_back({&s, num_tokens});
    budget -= num_tokens;
  }
}

// Gives the sequence its pages, or, where it shall read more from the spill file first, the plan for that.
// Pages: those that are in the cache already, and new ones for what host memory keeps and for the rest of its
// tokens. Pages are given up last first, so what the host has of a text follows what the device has.
Scheduler::Admission Scheduler::admit(Sequence& s, SpillReaders::Plan& plan) {
  const std::span<const PrefixKey> keys = shareable_keys(s);
  PagePool::Found found = pool_.find(keys);
  const auto there = static_cast<size_t>(found.num_pages);
  const auto swapped = static_cast<size_t>(swap_ == nullptr ? 0 : swap_->find(keys.subspan(there)));
  const size_t next = there + swapped;
  if (next < keys.size() && pool_.is_announced(keys[next]))
    return Admission::not_yet;  // another is computing it
  const bool may_tail = set_tail(s) && s.kept.num_tokens == 0 && there == keys.size();
  const std::span<const PrefixKey> tail(may_tail ? &*s.tail : nullptr, may_tail ? 1 : 0);
  const PagePool::Found found_tail = pool_.find(tail);
  if (may_tail && found_tail.num_pages == 0 && pool_.is_announced(*s.tail)) return Admission::not_yet;
  // A free tail is taken over; one that others hold is copied, which takes a page like any other.
  found.num_pages += found_tail.num_free, found.num_free += found_tail.num_free;
  const auto num_tokens = static_cast<int64_t>(s.tokens.size());
  // One page beyond its tokens, so that it is not preempted by its own first decode step.
  const int64_t wanted = pool_.pages_for(num_tokens + 1) - found.num_pages + reserved_pages();
  const bool alone = running_.empty() && pool_.num_free() == pool_.num_pages();
  if (wanted > pool_.num_free() - found.num_free && !alone) return Admission::not_yet;
  if (const bool may_read = readers_ != nullptr && !s.has_read && s.kept.num_tokens == 0 && swapped == 0;
      may_read)
    if (const auto planned = readers_->plan(keys, there)) {
      plan = *planned;
      return Admission::reads;
    }
  pool_.hold(keys.first(there), s.pages);
  const bool has_tail = found_tail.num_pages > 0;
  if (has_tail) pool_.hold(tail, s.pages);
  if (!pool_.grow(s.pages, num_tokens)) {
    pool_.release(s.pages);
    return Admission::not_yet;
  }
  if (has_tail) own(s, there);
  begin_at(s, has_tail ? num_tokens - 1 : restore(s, keys.first(next), there), keys);
  return Admission::runs;
}

// The sequence is about to write to this block: copies it if others hold it too.
void Scheduler::own(Sequence& s, size_t block) {
  const int32_t from = pool_.own(s.pages[block]);
  if (from == s.pages[block]) return;
  if (readers_ != nullptr) readers_->spill().end_transfers();  // of what was in the page until now
  for (const RankCache& rank : cache_r_) rank.cache->copy_page(*rank.ops, from, s.pages[block]);
}

// Whether all of the prompt's last block but the last token may come from the cache; then s.tail is its key.
bool Scheduler::set_tail(Sequence& s) const {
  const int64_t num_shareable = s.prompt_len() - 1;
  if (!cache_.prefix_caching() || s.wants_prompt_scores() || s.num_generated() > 0 ||
      num_shareable % pool_.block_size() == 0)
    return false;
  if (!s.tail) s.tail = last_block_key(s.tokens, pool_.block_size(), s.request.cache_salt, s.keys);
  return true;
}

// Brings what host memory keeps of the sequence to its pages: of the blocks of `keys` those from `there` on,
// and what is kept for it alone. The tokens that it need not compute.
int64_t Scheduler::restore(Sequence& s, std::span<const PrefixKey> keys, size_t there) {
  auto num_tokens = static_cast<int64_t>(keys.size()) * pool_.block_size();
  if (swap_ == nullptr) return num_tokens;
  const bool whole = s.kept.num_tokens > num_tokens && s.kept.num_keys == static_cast<int64_t>(keys.size());
  const std::span<const int32_t> slots =
      whole ? std::span<const int32_t>(s.kept.slots) : std::span<const int32_t>();
  if (whole) num_tokens = s.kept.num_tokens;
  swap_->restore(keys.subspan(there), slots,
                 std::span(s.pages).subspan(there, keys.size() - there + slots.size()));
  for (size_t block = there; block < keys.size(); ++block) pool_.publish(s.pages[block], keys[block]);
  swap_->forget(s);
  return num_tokens;
}

int64_t Scheduler::reserved_pages() const {
  int64_t growth = 0;  // pages that running sequences may still ask for
  for (const auto& s : running_)
    growth +=
        pool_.pages_for(s->prompt_len() + s->request.max_tokens) - static_cast<int64_t>(s->pages.size());
  const double most = options_.reserve_share * static_cast<double>(pool_.num_pages());
  const int64_t reading = readers_ == nullptr ? 0 : readers_->num_pages_missing();
  return std::min(growth, static_cast<int64_t>(most)) + reading;
}

// Of the blocks that may come from the cache: not the last token's, whose logits are wanted, and none of a
// prompt that is to be scored but what the sequence computed itself.
std::span<const PrefixKey> Scheduler::shareable_keys(Sequence& s) const {
  if (!cache_.prefix_caching() || s.wants_prompt_scores())
    return std::span<const PrefixKey>(s.keys).first(static_cast<size_t>(s.kept.num_keys));
  extend_prefix_keys(s.tokens, pool_.block_size(), s.request.cache_salt, s.keys);
  const auto usable = static_cast<int64_t>(s.tokens.size() - 1) / pool_.block_size();
  return std::span<const PrefixKey>(s.keys).first(static_cast<size_t>(usable));
}

void Scheduler::begin_at(Sequence& s, int64_t num_tokens, std::span<const PrefixKey> keys) {
  s.num_computed = num_tokens;
  s.num_published = std::min(num_tokens / pool_.block_size(), static_cast<int64_t>(keys.size()));
  s.num_announced = static_cast<int64_t>(keys.size());
  for (int64_t i = s.num_published; i < s.num_announced; ++i) pool_.announce(keys[static_cast<size_t>(i)]);
  s.tail_announced = set_tail(s) && num_tokens < s.prompt_len() - 1;
  if (s.tail_announced) pool_.announce(*s.tail);
  s.has_read = false;
  if (s.was_admitted) return;
  s.was_admitted = true;
  s.num_found_tokens = s.num_computed;
  if (keys.empty()) return;
  ++counters_.prefix_queries;
  counters_.prefix_hits += s.num_computed > 0;
  counters_.tokens_looked_up += s.prompt_len();
  counters_.tokens_found += s.num_computed;
}

int64_t Scheduler::num_empty_slots() const {
  int64_t n = 0;
  for (const auto& s : running_)
    n += static_cast<int64_t>(s->pages.size()) * pool_.block_size() - s->num_computed;
  return n;
}

// Times a token of the chunk that most of the step went to, if it is a prompt's.
void Scheduler::record_step(int64_t num_tokens, int64_t step_ns) {
  step_budget_.record(num_tokens, step_ns);
  if ((swap_ == nullptr && readers_ == nullptr) || chunks_.empty()) return;
  const ScheduledChunk& most = *std::ranges::max_element(chunks_, {}, &ScheduledChunk::num_tokens);
  if (most.num_tokens < 2 || 2 * most.num_tokens < num_tokens) return;
  const SwapPolicy::Prefill prefill{most.sequence->num_computed, most.num_tokens,
                                    step_ns / num_tokens * most.num_tokens};
  if (swap_ != nullptr) swap_->policy().record_prefill(prefill);
  if (readers_ != nullptr) readers_->spill().policy().record_prefill(prefill);
}

void Scheduler::advance(const ScheduledChunk& chunk) {
  Sequence& s = *chunk.sequence;
  s.num_computed += chunk.num_tokens;
  if (!cache_.prefix_caching()) return;
  const std::span<const int32_t> computed = std::span(s.tokens).first(static_cast<size_t>(s.num_computed));
  extend_prefix_keys(computed, pool_.block_size(), s.request.cache_salt, s.keys);
  for (; s.num_published < s.num_computed / pool_.block_size(); ++s.num_published) {
    const auto block = static_cast<size_t>(s.num_published);
    pool_.publish(s.pages[block], s.keys[block]);
    if (s.num_published < s.num_announced) pool_.withdraw(s.keys[block]);
  }
  if (!s.tail_announced || s.num_computed < s.prompt_len()) return;
  pool_.withdraw(*s.tail);
  s.tail_announced = false;
  const int64_t last = (s.prompt_len() - 1) / pool_.block_size();
  if (last >= s.num_published) pool_.publish(s.pages[static_cast<size_t>(last)], *s.tail, /*is_whole=*/false);
}

// Takes from the sequence what it has of the cache: it starts over when it runs again.
void Scheduler::let_go(Sequence& s) {
  for (int64_t i = s.num_published; i < s.num_announced; ++i) pool_.withdraw(s.keys[static_cast<size_t>(i)]);
  if (s.tail_announced) pool_.withdraw(*s.tail);
  s.tail_announced = false;
  pool_.release(s.pages);
  s.num_computed = s.num_published = s.num_announced = 0;
}

std::string Scheduler::audit() const {
  std::vector<const std::vector<int32_t>*> tables;
  int64_t announced = 0;
  for (const auto& s : running_) {
    tables.push_back(&s->pages);
    announced += std::max<int64_t>(0, s->num_announced - s->num_published) + s->tail_announced;
    if (s->kept.num_tokens > 0) return fmt::format("request {} runs, and pages are kept for it", s->id);
  }
  std::vector<const Sequence*> waiting;
  waiting_.for_each([&](const Sequence& s) { waiting.push_back(&s); });
  for (const Sequence* s : waiting)
    if (!s->pages.empty()) return fmt::format("request {} waits, and holds pages", s->id);
  if (announced != pool_.num_announced())
    return fmt::format("{} blocks are being computed, {} are announced", announced, pool_.num_announced());
  if (swap_ != nullptr)
    if (std::string wrong = swap_->audit(waiting); !wrong.empty()) return wrong;
  if (readers_ != nullptr)
    if (std::string wrong = readers_->audit(tables); !wrong.empty()) return wrong;
  return pool_.audit(tables);
}

void Scheduler::fill(StepBatch& batch) {
  batch.ids_t.clear(), batch.position_t.clear(), batch.sequence_t.clear(), batch.seed_s.clear();
  batch.logit_rows.clear(), batch.routed_rows.clear();
  batch.num_sequences = static_cast<int64_t>(chunks_.size());
  batch.blocks_per_sequence = 1;
  for (const ScheduledChunk& c : chunks_)
    batch.blocks_per_sequence =
        std::max(batch.blocks_per_sequence, static_cast<int64_t>(c.sequence->pages.size()));
  batch.block_table_sb.assign(static_cast<size_t>(batch.num_sequences * batch.blocks_per_sequence), 0);

  for (int64_t i = 0; i < batch.num_sequences; ++i) {
    ScheduledChunk& c = chunks_[static_cast<size_t>(i)];
    const Sequence& s = *c.sequence;
    batch.seed_s.push_back(s.request.seed);
    std::copy(s.pages.begin(), s.pages.end(), batch.block_table_sb.begin() + i * batch.blocks_per_sequence);
    const int64_t begin = s.num_computed, end = begin + c.num_tokens;
    const int64_t row0 = batch.num_tokens() - begin;  // row of position p is row0 + p
    for (int64_t p = begin; p < end; ++p) {
      batch.ids_t.push_back(s.tokens[static_cast<size_t>(p)]);
      batch.position_t.push_back(static_cast<int32_t>(p));
      batch.sequence_t.push_back(static_cast<int32_t>(i));
    }
    c.first_logit = static_cast<int64_t>(batch.logit_rows.size());
    const PositionRange scored = unscored_prompt(s, begin, end);
    for (int64_t p = scored.begin; p < scored.end; ++p)
      batch.logit_rows.push_back(static_cast<int32_t>(row0 + p));
    const bool samples = end == static_cast<int64_t>(s.tokens.size()) && s.request.max_tokens > 0;
    if (samples) batch.logit_rows.push_back(static_cast<int32_t>(row0 + end - 1));
    c.num_logits = static_cast<int64_t>(batch.logit_rows.size()) - c.first_logit;

    const PositionRange routed = unrouted_prompt(s, begin, end);
    c.first_routed = std::ssize(batch.routed_rows), c.first_routed_position = routed.begin;
    for (int64_t p = routed.begin; p < routed.end; ++p)
      batch.routed_rows.push_back(static_cast<int32_t>(row0 + p));
    if (samples && s.request.routed_experts)
      batch.routed_rows.push_back(static_cast<int32_t>(row0 + end - 1));
    c.num_routed = std::ssize(batch.routed_rows) - c.first_routed;
  }
}

}  // namespace guildhall
