#include "deploy/programs/hosts.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>

#include <algorithm>
#include <memory>
#include <set>

namespace guildhall {
namespace {

std::string numeric(const sockaddr* address) {
  char text[NI_MAXHOST] = {};
  const socklen_t size = address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (getnameinfo(address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return text;
}

bool is_wildcard(const std::string& host) { return host == "0.0.0.0" || host == "::" || host == "*"; }

// 127.0.0.0/8 is all this machine's, though the interface lists one address of it.
bool is_loopback(const std::string& address) { return address.rfind("127.", 0) == 0 || address == "::1"; }

bool is_local(const std::string& host, const std::set<std::string>& own) {
  if (own.count(host) || is_loopback(host)) return true;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, nullptr, &found) != 0) return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const std::string address = numeric(a->ai_addr);
    if (own.count(address) || is_loopback(address)) return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> interface_addresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> guard(list, freeifaddrs);
  std::vector<std::string> addresses;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || !(i->ifa_flags & IFF_UP)) continue;
    if (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6) continue;
    addresses.push_back(numeric(i->ifa_addr));
  }
  return addresses;
}

Result<HostPlan> plan_for_host(const config::Config& config, const std::optional<std::string>& host) {
  const std::vector<std::string> addresses = interface_addresses();
  const std::set<std::string> own(addresses.begin(), addresses.end());
  const auto here = [&](const std::string& process_host, const std::string& name) {
    return host ? process_host == *host || name == *host : is_local(process_host, own);
  };

  HostPlan plan;
  const bool loopback = config.transport().kind() == "loopback";
  const auto& workers = config.experts().workers();
  if (!loopback)
    for (int i = 0; i < workers.size(); ++i)
      if (here(workers[i].host(), workers[i].name())) plan.workers.push_back(i);

  const bool all_workers_here = loopback || static_cast<int>(plan.workers.size()) == workers.size();
  std::vector<std::string> named;
  for (RouterOfFile& router : routers_of(config)) {
    const std::string &router_host = router.settings.host(), &name = router.settings.name();
    named.push_back(fmt::format("{} ({})", router_host, name));
    const bool anywhere = is_wildcard(router_host) && !host;
    if (anywhere && !all_workers_here)
      return Status{Code::invalid_argument,
                    fmt::format("{}: {} is {}, which every host has; name the router's host", router.host_key,
                                router.listen_key, router.settings.http().listen())};
    if (anywhere || here(router_host, name)) plan.routers.push_back(std::move(router));
  }
  if (plan.routers.empty() && plan.workers.empty()) {
    for (const auto& w : workers) named.push_back(fmt::format("{} ({})", w.host(), w.name()));
    return Status{Code::not_found,
                  fmt::format("no process of the configuration belongs here: it names the hosts {}; {}",
                              fmt::join(named, ", "),
                              host ? fmt::format("--host is {}", *host)
                                   : fmt::format("this machine has {}", fmt::join(addresses, ", ")))};
  }
  return plan;
}

}  // namespace guildhall
