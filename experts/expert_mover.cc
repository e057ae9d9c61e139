#include "experts/expert_mover.h"

#include "base/log.h"

namespace guildhall {
namespace {

const Status kCancelled{Code::cancelled, "the move was cancelled"};

}  // namespace

ExpertMover::ExpertMover(ExpertLoaderOptions options, const ModelSpec& spec, Task task, Done done)
    : options_(std::move(options)), spec_(spec), task_(std::move(task)), pacer_(task_.bytes_per_s) {
  thread_ = std::thread([this, done = std::move(done)] { run(done); });
}

ExpertMover::~ExpertMover() {
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    wake_.notify_all();
  }
  if (task_.source) task_.source->end(kCancelled);
  thread_.join();
}

void ExpertMover::run(const Done& done) {
  std::vector<PlacedExpert> brought;
  for (size_t layer = 0; layer < task_.experts_l.size(); ++layer)
    for (const int32_t expert : task_.experts_l[layer]) {
      const auto l = static_cast<int64_t>(layer);
      Result<ExpertPtr> weights = bring(l, expert);
      if (weights.has_error()) return done(std::move(weights).error());
      bytes_done_ += (*weights)->memory.bytes();
      brought.push_back({l, expert, *std::move(weights)});
    }
  done(std::move(brought));
}

// A source that fails is asked for nothing more, unless only this expert is not there.
Result<ExpertPtr> ExpertMover::bring(int64_t layer, int64_t expert) {
  if (!source_failed_ && task_.source) {
    Result<ExpertPtr> fetched = fetch(layer, expert);
    if (!fetched.has_error()) return fetched;
    if (is_cancelled()) return kCancelled;
    const Status& why = fetched.error();
    log_warn("fetch_failed", "layer={} expert={} reason=\"{}\": taken from the checkpoint", layer, expert,
             to_string(why));
    source_failed_ = why.code != Code::not_found;
  }
  return read(layer, expert);
}

Result<ExpertPtr> ExpertMover::fetch(int64_t layer, int64_t expert) {
  DeviceMemory& host = options_.device->is_host() ? *options_.device : host_memory();
  GH_ASSIGN(FetchedExpert fetched,
            task_.source->fetch(layer, expert, host, [this](int64_t bytes) { return pace(bytes); }));
  return adopt_expert(spec_, fetched.dtype, std::move(fetched.bytes), *options_.device);
}

Result<ExpertPtr> ExpertMover::read(int64_t layer, int64_t expert) {
  if (!reader_) {
    GH_ASSIGN(reader_, ExpertReader::open(options_.model_path, spec_, options_.mode, *options_.device,
                                          [this](int64_t bytes) { return pace(bytes); }));
  }
  return reader_->load(layer, expert);
}

Result<void> ExpertMover::pace(int64_t bytes) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, pacer_.take(bytes, Clock::now()), [&] { return cancelled_; });
  if (cancelled_) return kCancelled;
  return {};
}

bool ExpertMover::is_cancelled() {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

}  // namespace guildhall
