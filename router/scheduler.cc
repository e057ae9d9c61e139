#include "router/scheduler.h"

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

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, KvCache& cache) : options_(options), cache_(cache) {}

void Scheduler::add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

std::unique_ptr<Sequence> Scheduler::remove(RequestId id) {
  const auto take = [&](auto& list) -> std::unique_ptr<Sequence> {
    const auto it = std::find_if(list.begin(), list.end(), [&](const auto& s) { return s->id == id; });
    if (it == list.end()) return nullptr;
    auto sequence = std::move(*it);
    list.erase(it);
    cache_.release(sequence->pages);
    return sequence;
  };
  if (auto sequence = take(running_)) return sequence;
  return take(waiting_);
}

std::vector<std::unique_ptr<Sequence>> Scheduler::remove_all() {
  std::vector<std::unique_ptr<Sequence>> all;
  while (!running_.empty()) all.push_back(remove(running_.front()->id));
  while (!waiting_.empty()) all.push_back(remove(waiting_.front()->id));
  return all;
}

const std::vector<ScheduledChunk>& Scheduler::schedule(StepBatch& batch) {
  chunks_.clear();
  int64_t budget = options_.max_batched_tokens;
  schedule_running(budget);
  admit_waiting(budget);
  fill(batch);
  return chunks_;
}

// Decodes first (one token each, oldest first), then chunks of the prompts that are still being read.
void Scheduler::schedule_running(int64_t& budget) {
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
      Sequence& s = *running_[i];
      if ((s.num_pending() == 1) != decoding) continue;
      const int64_t num_tokens = std::min(s.num_pending(), budget);
      if (!make_room(s, s.num_computed + num_tokens)) break;  // it was itself the youngest: preempted
      chunks_.push_back({&s, num_tokens});
      budget -= num_tokens;
    }
  }
}

// Preempts younger sequences until `sequence` has pages for num_tokens. False when it had to go itself.
bool Scheduler::make_room(Sequence& sequence, int64_t num_tokens) {
  while (!cache_.grow(sequence.pages, num_tokens)) {
    const bool self = running_.back().get() == &sequence;
    preempt_youngest();
    if (self) return false;
  }
  return true;
}

void Scheduler::preempt_youngest() {
  auto sequence = std::move(running_.back());
  running_.pop_back();
  std::erase_if(chunks_, [&](const ScheduledChunk& c) { return c.sequence == sequence.get(); });
  cache_.release(sequence->pages);
  sequence->num_computed = 0;
  waiting_.push_front(std::move(sequence));
  ++num_preemptions_;
}

void Scheduler::preempt_all() {
  while (!running_.empty()) preempt_youngest();
}

// First come, first served: the head of the queue waits until all its tokens fit, so that it is never
// overtaken.
void Scheduler::admit_waiting(int64_t& budget) {
  while (!waiting_.empty() && budget > 0 && num_running() < options_.max_sequences) {
    Sequence& s = *waiting_.front();
    // One page beyond its tokens, so that it is not preempted by its own first decode step.
    const int64_t wanted = cache_.pages_for(static_cast<int64_t>(s.tokens.size()) + 1);
    if (wanted > cache_.num_free() && !(running_.empty() && cache_.num_free() == cache_.num_pages())) return;
    const int64_t num_tokens = std::min(s.num_pending(), budget);
    if (!cache_.grow(s.pages, static_cast<int64_t>(s.tokens.size()))) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    chunks_.push_back({&s, num_tokens});
    budget -= num_tokens;
  }
}

void Scheduler::fill(StepBatch& batch) {
  batch.ids_t.clear(), batch.position_t.clear(), batch.sequence_t.clear(), batch.logit_rows.clear();
  batch.num_sequences = static_cast<int64_t>(chunks_.size());
  batch.blocks_per_sequence = 1;
  for (const ScheduledChunk& c : chunks_)
    batch.blocks_per_sequence =
        std::max(batch.blocks_per_sequence, static_cast<int64_t>(c.sequence->pages.size()));
  batch.block_table_sb.assign(static_cast<size_t>(batch.num_sequences * batch.blocks_per_sequence), 0);

  for (int64_t i = 0; i < batch.num_sequences; ++i) {
    ScheduledChunk& c = chunks_[static_cast<size_t>(i)];
    const Sequence& s = *c.sequence;
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
    const bool last = end == static_cast<int64_t>(s.tokens.size());
    if (last && s.request.max_tokens > 0) batch.logit_rows.push_back(static_cast<int32_t>(row0 + end - 1));
    c.num_logits = static_cast<int64_t>(batch.logit_rows.size()) - c.first_logit;
  }
}

}  // namespace guildhall
