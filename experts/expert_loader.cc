#include "experts/expert_loader.h"

#include <fmt/format.h>

#include "base/units.h"

namespace guildhall {

Result<void> check_memory(const ModelSpec& spec, const ExpertsOfLayer& experts, int64_t limit) {
  int64_t count = 0;
  for (const auto& layer : experts) count += static_cast<int64_t>(layer.size());
  const int64_t each = expert_bytes(spec);
  if (limit == 0 || count * each <= limit) return {};
  return Status{
      Code::resource_exhausted,
      fmt::format("{} experts of {} take {}; experts.workers.memory is {}, which holds {} of them: give this "
                  "worker more memory or add workers",
                  count, format_bytes(each), format_bytes(count * each), format_bytes(limit), limit / each)};
}

ExpertLoader::ExpertLoader(ExpertLoaderOptions options, const ModelSpec& spec, ExpertsOfLayer experts,
                           Done done)
    : experts_(std::move(experts)) {
  thread_ = std::thread([this, &spec, options = std::move(options), done = std::move(done)] {
    const Result<void> fits = check_memory(spec, experts_, options.memory_limit);
    if (fits.has_error()) return done(fits.error());
    auto store =
        ExpertStore::load(options.model_path, spec, options.mode, experts_, progress_, *options.device);
    if (store.has_error()) return done(store.error());
    done(std::shared_ptr<const ExpertStore>(std::move(*store)));
  });
}

ExpertLoader::~ExpertLoader() {
  progress_.cancel = true;
  thread_.join();
}

}  // namespace guildhall
