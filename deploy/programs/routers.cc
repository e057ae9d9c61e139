#include "deploy/programs/routers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace guildhall {

std::vector<RouterOfFile> routers_of(const config::Config& config) {
  if (config.routers().empty()) return {{config.router(), "router.http.listen", "router.host"}};
  std::vector<RouterOfFile> routers;
  for (const config::RouterOfList& listed : config.routers()) {
    const std::string key = fmt::format("routers[{}]", routers.size());
    RouterOfFile& router =
        routers.emplace_back(RouterOfFile{config.router(), key + ".listen", key + ".host"});
    router.settings.set_name(listed.name());
    router.settings.set_host(listed.host());
    router.settings.mutable_http()->set_listen(listed.listen());
    if (!listed.device().empty()) router.settings.mutable_dense()->set_device(listed.device());
    if (listed.threads() > 0) router.settings.mutable_dense()->set_threads(listed.threads());
  }
  return routers;
}

Result<config::Config> config_of_router(const config::Config& config, const std::string& name) {
  std::vector<std::string> names;
  for (const RouterOfFile& router : routers_of(config)) names.push_back(router.settings.name());
  if (name.empty() && names.size() > 1)
    return Status{Code::not_found,
                  fmt::format("the configuration has several routers: {}; choose one with --name",
                              fmt::join(names, ", "))};
  for (RouterOfFile& router : routers_of(config)) {
    if (!name.empty() && router.settings.name() != name) continue;
    config::Config own = config;
    const auto is_own = [&](const config::RouterOfList& listed) {
      return listed.name() == router.settings.name();
    };
    own.mutable_routers()->erase(
        std::remove_if(own.mutable_routers()->begin(), own.mutable_routers()->end(), is_own),
        own.mutable_routers()->end());
    *own.mutable_router() = std::move(router.settings);
    return own;
  }
  return Status{Code::not_found,
                fmt::format("the configuration has no router '{}'; it has {}", name, fmt::join(names, ", "))};
}

}  // namespace guildhall
