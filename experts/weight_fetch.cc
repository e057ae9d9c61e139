#include "experts/weight_fetch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/units.h"
#include "model/expert_layout.h"
#include "proto/crc32c.h"

namespace guildhall {
namespace {

DType dtype_of(WeightType type) {
  return type == WeightType::f32 ? DType::f32 : type == WeightType::bf16 ? DType::bf16 : DType::e4m3;
}

}  // namespace

WeightFetch::WeightFetch(const ModelSpec& spec, WeightFetchOptions options, Ask ask)
    : spec_(spec), options_(std::move(options)), ask_(std::move(ask)) {
  chunk_.reserve(options_.chunk_bytes);
}

Result<FetchedExpert> WeightFetch::fetch(int64_t layer, int64_t expert, DeviceMemory& host,
                                         const Pace& pace) {
  WeightsRequest request{.layer = static_cast<uint16_t>(layer), .expert = static_cast<uint16_t>(expert)};
  FetchedExpert fetched;
  int64_t total = expert_bytes(spec_);  // until its first chunk says so
  uint32_t crc = 0;
  for (int64_t done = 0; done < total;) {
    request.max_bytes = static_cast<uint32_t>(std::min<int64_t>(options_.chunk_bytes, total - done));
    request.offset = static_cast<uint64_t>(done);
    GH_TRY(pace(request.max_bytes));
    GH_ASSIGN(const WeightsChunk chunk, ask_and_wait(request));
    const auto came = static_cast<int64_t>(chunk.bytes.size());
    if (chunk.layer != layer || chunk.expert != expert || chunk.offset != request.offset ||
        came > request.max_bytes)
      return wrong("it answers what was not asked");
    if (done == 0) {
      fetched.dtype = dtype_of(chunk.type);
      total = expert_bytes(spec_, fetched.dtype);
      GH_ASSIGN(fetched.bytes, Arena::allocate(total, host));
    }
    if (dtype_of(chunk.type) != fetched.dtype || chunk.total_bytes != static_cast<uint64_t>(total))
      return wrong(fmt::format("an expert of {} bytes in {} where {} in {} are due", chunk.total_bytes,
                               to_string(dtype_of(chunk.type)), total, to_string(fetched.dtype)));
    std::byte* const to = fetched.bytes.data() + done;
    std::memcpy(to, chunk.bytes.data(), chunk.bytes.size());
    crc = crc32c({to, chunk.bytes.size()}, crc);
    if (crc != chunk.crc32c)
      return wrong(
          fmt::format("layer {} expert {}: the checksum of its first {} bytes is {:#010x}, not {:#010x}",
                      layer, expert, done + came, crc, chunk.crc32c));
    done += came;
  }
  return fetched;
}

Status WeightFetch::wrong(const std::string& what) const {
  return {Code::data_loss, fmt::format("peer {}: {}", options_.peer, what)};
}

// The answer's bytes are valid until the next call.
Result<WeightsChunk> WeightFetch::ask_and_wait(const WeightsRequest& request) {
  std::unique_lock lock(mutex_);
  if (ended_) return *ended_;
  const uint64_t id = open_id_ = ++last_id_;
  answer_.reset();
  lock.unlock();
  ask_(id, request);
  lock.lock();
  answered_.wait_for(lock, options_.deadline, [&] { return answer_ || ended_; });
  open_id_ = 0;
  if (ended_) return *ended_;
  if (!answer_)
    return Status{Code::deadline_exceeded, fmt::format("peer {}: no answer within {}", options_.peer,
                                                       format_duration(options_.deadline))};
  return *std::move(answer_);
}

void WeightFetch::end(const Status& why) {
  std::lock_guard lock(mutex_);
  if (!ended_) ended_ = why;
  answered_.notify_all();
}

void WeightFetch::on_chunk(uint64_t step_id, const WeightsChunk& chunk) {
  std::lock_guard lock(mutex_);
  if (step_id != open_id_ || answer_) return;
  chunk_.assign(chunk.bytes.begin(), chunk.bytes.end());
  answer_ = chunk;
  (*answer_)->bytes = chunk_;
  answered_.notify_all();
}

void WeightFetch::on_failure(uint64_t step_id, const Status& why) {
  std::lock_guard lock(mutex_);
  if (step_id != open_id_ || answer_) return;
  answer_ = Status{why.code, fmt::format("peer {}: {}", options_.peer, why.message)};
  answered_.notify_all();
}

}  // namespace guildhall
