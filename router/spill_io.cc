#include "router/spill_io.h"

#include "base/clock.h"
#include "base/trace.h"

namespace guildhall {

SpillIo::SpillIo(SpillFile& file, std::function<void()> on_done) : file_(file), on_done_(std::move(on_done)) {
  for (const Kind kind : {Kind::read, Kind::write})
    lane(kind).thread = std::thread([this, kind] {
      name_trace_thread(kind == Kind::read ? "spill reads" : "spill writes");
      serve(lane(kind));
    });
}

SpillIo::~SpillIo() {
  for (Lane* lane : {&reads_, &writes_}) {
    {
      std::lock_guard lock(lane->mutex);
      lane->ends = true;
    }
    lane->changed.notify_one();
    lane->thread.join();
  }
}

void SpillIo::submit(const Job& job) {
  Lane& to = lane(job.kind);
  {
    std::lock_guard lock(to.mutex);
    to.jobs.push_back(job);
  }
  to.changed.notify_one();
}

std::vector<SpillIo::Done> SpillIo::collect() {
  std::lock_guard lock(mutex_);
  return std::exchange(done_, {});
}

// ---- the threads

void SpillIo::serve(Lane& lane) {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(lane.mutex);
      lane.changed.wait(lock, [&] { return lane.ends || !lane.jobs.empty(); });
      if (lane.ends) return;
      job = lane.jobs.front();
      lane.jobs.pop_front();
    }
    const bool reads = job.kind == Kind::read;
    const int64_t begin = now_ns();
    TraceSpan span(reads ? "read page" : "write page", {});
    const Result<void> result =
        reads ? file_.read(job.slot, job.key, job.page) : file_.write(job.slot, job.key, job.page);
    {
      std::lock_guard lock(mutex_);
      done_.push_back({job, result, now_ns() - begin});
    }
    on_done_();
  }
}

}  // namespace guildhall
