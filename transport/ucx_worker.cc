// ucx_worker.cc: opening UCX. What it logs goes through our log, so that it cannot mix with a program's
// output.
#include "transport/ucx_worker.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <ucs/debug/log_def.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>
#include <vector>

#include "base/log.h"
#include "base/units.h"

namespace guildhall {
namespace {

// UCX_POSIX_ERROR_HANDLING and UCX_SYSV_ERROR_HANDLING: set by program, both go by the name of what they
// inherit.
constexpr const char* kSharedMemoryErrors = "MM_ERROR_HANDLING";
// UCX_TCP_RX_SEG_SIZE likewise. What UCX takes from a socket at a time, 64 KiB by itself. Measured with rows
// of 256 tokens x 4096 over two workers on loopback: 1.3 to 1.6 GB/s with its own, 2.5 with this; 512 KiB and
// more are slower again.
constexpr const char* kTcpReceiveSegment = "RX_SEG_SIZE";

Status ucx_error(std::string_view what, ucs_status_t status) {
  return {Code::internal, fmt::format("ucx: {}: {}", what, ucs_status_string(status))};
}

ucs_log_func_rc_t log_from_ucx(const char* file, unsigned line, const char* function, ucs_log_level_t level,
                               const ucs_log_component_config_t* component, const char* message,
                               va_list args) {
  if (level == UCS_LOG_LEVEL_FATAL)  // UCX aborts after this one: it must not depend on us
    return ucs_log_default_handler(file, line, function, level, component, message, args);
  char text[512];
  std::vsnprintf(text, sizeof text, message, args);
  // Errors of UCX are our warnings: what they mean for a peer is reported by the exchange.
  // That a setting of ours found no transport to apply to is no news.
  const std::string_view said(text);
  const bool ours =
      said.find("invalid configuration") != said.npos &&
      (said.find(kSharedMemoryErrors) != said.npos || said.find(kTcpReceiveSegment) != said.npos);
  if (level <= UCS_LOG_LEVEL_WARN && !ours)
    log_warn("ucx", "{}", text);
  else if (level == UCS_LOG_LEVEL_INFO)
    log_info("ucx", "{}", text);
  else
    log_debug("ucx", "{}", text);
  return UCS_LOG_FUNC_RC_STOP;
}

bool names_rdma(const std::string& tls) {  // "rc_v,self", "ud_verbs", "dc_x", "ib"; as UCX_TLS
  std::istringstream names(tls);
  for (std::string name; std::getline(names, name, ',');)
    for (std::string_view family : {"rc", "ud", "dc", "ib"})
      if (name.starts_with(family)) return true;
  return false;
}

// RDMA locks the memory it registers. Where too little may be locked, UCX comes up all the same and then
// tries again for ever, two log lines each time; so this is found out before.
Result<void> check_lockable_memory(const std::string& tls) {
  constexpr size_t kNeededBytes = 32 << 20;  // UCX 1.13: 20 MiB to receive datagrams into, first of all
  if (!names_rdma(tls)) return {};
  void* probe = mmap(nullptr, kNeededBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (probe == MAP_FAILED)
    return Status{Code::resource_exhausted, fmt::format("transport.ucx: no {} of memory: {}",
                                                        format_bytes(kNeededBytes), std::strerror(errno))};
  const bool enough = mlock2(probe, kNeededBytes, MLOCK_ONFAULT) == 0;
  munmap(probe, kNeededBytes);
  if (enough) return {};
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  return Status{
      Code::resource_exhausted,
      fmt::format(
          "transport.ucx.tls: \"{}\" is RDMA, which locks what it sends and receives, and this process "
          "may lock {}: `ulimit -l unlimited` (systemd: LimitMEMLOCK=infinity)",
          tls, format_bytes(static_cast<int64_t>(limit.rlim_cur)))};
}

struct ConfigRelease {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
};
using Config = std::unique_ptr<ucp_config_t, ConfigRelease>;

Result<Config> make_config(const UcxOptions& options) {
  ucp_config_t* raw = nullptr;
  if (ucs_status_t status = ucp_config_read(nullptr, nullptr, &raw); status != UCS_OK)
    return ucx_error("reading the UCX_* environment", status);
  Config config(raw);
  std::vector<std::pair<const char*, std::string>> settings = {
      {"KEEPALIVE_INTERVAL", fmt::format("{}ms", options.keepalive.count())},
      // Off by default in UCX, and without it shared memory endpoints cannot report a dead peer at all.
      {kSharedMemoryErrors, "y"}};
  // The environment of UCX goes before our taste.
  if (std::getenv("UCX_TCP_RX_SEG_SIZE") == nullptr) settings.emplace_back(kTcpReceiveSegment, "256k");
  if (!options.tls.empty()) settings.emplace_back("TLS", options.tls);
  if (!options.net_devices.empty()) settings.emplace_back("NET_DEVICES", options.net_devices);
  for (const auto& [key, value] : settings)
    if (ucs_status_t status = ucp_config_modify(config.get(), key, value.c_str()); status != UCS_OK)
      return Status{Code::invalid_argument, fmt::format("transport.ucx: UCX does not accept {}={}: {}", key,
                                                        value, ucs_status_string(status))};
  return config;
}

void report_memory(ucp_context_h context) {
  const bool knows = knows_gpu_memory(context);
  log_info("ucx_memory", "ucx={} gpu_memory={} rows_of_a_gpu=\"{}\"", ucp_get_version_string(), knows,
           knows ? "cross from its memory" : "staged through pinned host memory");
}

}  // namespace

bool knows_gpu_memory(ucp_context_h context) {
  ucp_context_attr_t attributes{};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  return ucp_context_query(context, &attributes) == UCS_OK &&
         (attributes.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;
}

Result<UcxWorker> open_ucx_worker(const UcxOptions& options) {
  static std::once_flag log_once;
  std::call_once(log_once, [] { ucs_log_push_handler(log_from_ucx); });
  GH_TRY(check_lockable_memory(options.tls));
  GH_ASSIGN(Config config, make_config(options));

  UcxWorker opened;
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP;
  params.name = "guildhall";
  ucp_context_h context = nullptr;
  if (ucs_status_t status = ucp_init(&params, config.get(), &context); status != UCS_OK)
    return Status{Code::unavailable,
                  fmt::format("transport.ucx: no usable transport for tls=\"{}\" net_devices=\"{}\": {}; "
                              "`ucx_info -d` lists this machine's",
                              options.tls, options.net_devices, ucs_status_string(status))};
  opened.context.reset(context);
  report_memory(context);

  ucp_worker_params_t worker_params{};
  worker_params.field_mask =
      UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_FLAGS | UCP_WORKER_PARAM_FIELD_AM_ALIGNMENT;
  worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
  worker_params.flags = UCP_WORKER_FLAG_IGNORE_REQUEST_LEAK;  // a dead peer's requests may outlive the close
  worker_params.am_alignment = 8;                             // as on_frame() promises
  ucp_worker_h worker = nullptr;
  if (ucs_status_t status = ucp_worker_create(context, &worker_params, &worker); status != UCS_OK)
    return Status{Code::unavailable,
                  fmt::format("transport.ucx: no worker for tls=\"{}\" net_devices=\"{}\": {}", options.tls,
                              options.net_devices, ucs_status_string(status))};
  opened.worker.reset(worker);
  return opened;
}

Result<std::string> ucx_worker_address(ucp_worker_h worker) {
  ucp_address_t* address = nullptr;
  size_t length = 0;
  if (ucs_status_t status = ucp_worker_get_address(worker, &address, &length); status != UCS_OK)
    return ucx_error("worker address", status);
  std::string copy(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker, address);
  return copy;
}

std::string transports_in_endpoint_info(std::string_view info) {
  // A lane is a line like "#   lane[0]:  2:posix/memory.0 md[1]   -> ...": index:transport/device.path
  std::vector<std::string> names;
  for (size_t at = info.find("lane["); at != std::string_view::npos; at = info.find("lane[", at + 1)) {
    std::string_view line = info.substr(at, info.find('\n', at) - at);
    const size_t index = line.find("]:");
    const size_t colon = index == std::string_view::npos ? index : line.find(':', index + 2);
    if (colon == std::string_view::npos) continue;
    std::string_view name = line.substr(colon + 1, line.find(' ', colon) - colon - 1);
    name = name.substr(0, name.rfind('.'));
    const size_t slash = name.find('/');
    if (slash != std::string_view::npos && name.substr(slash).starts_with("/memory"))
      name = name.substr(0, slash);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.emplace_back(name);
  }
  return fmt::format("{}", fmt::join(names, "+"));
}

bool has_native_put_in_endpoint_info(std::string_view info) {
  // Lines like "lane[0]:  1:rc_verbs/rxe0:1.0 md[1]  -> md[1]/ib/sysdev[255] rma_bw#0 am am_bw#0" say which
  // lane carries active messages; lines like "put[0]: 0..<short>.." which lanes carry puts.
  std::string message_lane;
  std::vector<std::string> put_lanes;
  std::istringstream lines{std::string(info)};
  for (std::string line; std::getline(lines, line);) {
    const auto index_after = [&](std::string_view word) {
      const size_t at = line.find(word) + word.size();
      return line.substr(at, line.find(']', at) - at);
    };
    if (line.find("lane[") != std::string::npos && (line + " ").find(" am ") != std::string::npos)
      message_lane = index_after("lane[");
    if (line.find(" put[") != std::string::npos) put_lanes.push_back(index_after("put["));
  }
  return put_lanes.size() == 1 && put_lanes.front() == message_lane;
}

namespace {

std::string endpoint_info(ucp_ep_h endpoint) {
  char* text = nullptr;
  size_t length = 0;
  FILE* stream = open_memstream(&text, &length);
  if (!stream) return "";
  ucp_ep_print_info(endpoint, stream);
  std::fclose(stream);
  std::string info(text, length);
  std::free(text);
  return info;
}

}  // namespace

std::string describe_ucx_endpoint(ucp_ep_h endpoint) {
  return transports_in_endpoint_info(endpoint_info(endpoint));
}

bool has_native_put(ucp_ep_h endpoint) { return has_native_put_in_endpoint_info(endpoint_info(endpoint)); }

}  // namespace guildhall
