#include "deploy/programs/spill_check.h"

#include <fmt/format.h>

#include "base/units.h"
#include "deploy/programs/other_ranks.h"
#include "deploy/programs/settings.h"
#include "proto/config_yaml.h"

namespace guildhall {

Result<void> check_spill(const config::Config& config, const std::filesystem::path& config_file) {
  const std::string& folder = config.router().kv_cache().spill().path();
  if (folder.empty()) return {};
  const Result<void> checked = SpillFile::check_folder(folder);
  if (checked.has_error())
    return config_problem(config_file, "router.kv_cache.spill.path", checked.error().message);
  return {};
}

Result<std::string> describe_spill(const config::Config& config, const ModelSpec& spec,
                                   int64_t max_model_len) {
  const std::optional<SpillOptions> spill = engine_options(config, spec, max_model_len).spill;
  if (!spill) return std::string();
  const KvCacheOptions cache = kv_cache_options(config, max_model_len);
  GH_ASSIGN(const auto ranks, OtherRanks::divide(config, spec));
  int64_t page_bytes = 0;
  for (size_t r = 0; r < ranks->num_ranks(); ++r)
    page_bytes += KvCache::page_bytes(ranks->shard(r).spec, cache);
  const int64_t num_pages = SpillFile::num_slots({spill->folder, spill->size_bytes, page_bytes});
  std::string text = fmt::format("; spill: {} tokens in a file of {} in {}", num_pages * cache.block_size,
                                 format_bytes(spill->size_bytes), spill->folder.string());
  if (num_pages == 0) text += fmt::format(", which holds no page of {}", format_bytes(page_bytes));
  std::error_code error;
  const auto space = std::filesystem::space(spill->folder, error);
  const auto wanted = static_cast<uintmax_t>(config.router().kv_cache().spill().size_bytes());
  if (!error && space.available < wanted)
    text += fmt::format(", where {} are free: spilling would turn itself off",
                        format_bytes(static_cast<int64_t>(space.available)));
  return text;
}

}  // namespace guildhall
