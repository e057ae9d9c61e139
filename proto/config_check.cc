#include "proto/config_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "proto/host_port.h"

namespace guildhall {
namespace {

constexpr size_t kMaxNameBytes = 63;  // shown in every log line, used as a host name by some
constexpr int kMaxWorkers = 4096;
constexpr int kMaxRouters = 64;  // each keeps a link and slots on every worker

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string host_of(const std::string& address) {
  const auto parsed = parse_host_port(address);
  return parsed ? parsed->host : std::string();
}

class Checker {
 public:
  explicit Checker(const config::Config& config) : config_(config) {}

  std::vector<ConfigProblem> run() {
    if (config_.model().path().empty()) add("model.path", "missing; name the checkpoint's folder");
    check_routers();
    check_origins();
    check_device("router.dense.device", config_.router().dense().device());
    check_dense();
    check_workers();
    check_offload();
    check_gpu_memory();
    check_spill();
    return std::move(problems_);
  }

 private:
  void add(std::string key, std::string message) {
    problems_.push_back({std::move(key), std::move(message)});
  }

  void check_routers() {
    const auto& routers = config_.routers();
    if (routers.empty()) {
      check_name("router.name", config_.router().name());
      names_[config_.router().name()] = "router.name";
      check_address("router.http.listen", config_.router().http().listen(), /*any_port=*/true);
    }
    if (routers.size() > kMaxRouters)
      add("routers", fmt::format("{} routers are more than {}", routers.size(), kMaxRouters));
    for (int i = 0; i < routers.size(); ++i) {
      const config::RouterOfList& router = routers[i];
      const std::string key = fmt::format("routers[{}]", i);
      check_unique(key + ".name", router.name(), "name");
      check_name(key + ".name", router.name());
      check_device(key + ".device", router.device());
      if (router.listen().empty())
        add(key + ".listen",
            fmt::format("missing; router '{}' needs the HOST:PORT of its API", router.name()));
      else
        check_address(key + ".listen", router.listen(), /*any_port=*/true);
    }
  }

  // What browsers send as Origin: a scheme, a host, a port that is not the scheme's own; nothing behind it.
  void check_origins() {
    for (const std::string& origin : config_.router().http().cors_origins()) {
      const size_t scheme_end = origin.find("://");
      const std::string_view rest =
          scheme_end == origin.npos ? "" : std::string_view(origin).substr(scheme_end + 3);
      const bool plain = std::ranges::all_of(
          origin, [](char c) { return c > 0x20 && c < 0x7f && !(c >= 'A' && c <= 'Z') && c != '*'; });
      if (origin != "*" && (!plain || rest.empty() || scheme_end == 0 || rest.find('/') != rest.npos))
        add("router.http.cors_origins",
            fmt::format(
                "'{}' is not an origin; write one such as https://chat.example.org, without a path and "
                "in lower case, or \"*\"",
                origin));
    }
  }

  void check_dense() {
    const config::Dense& dense = config_.router().dense();
    if (dense.data_parallel() > 1 && dense.tensor_parallel() > 1)
      add("router.dense.data_parallel",
          fmt::format(
              "{} replicas of {} ranks each (tensor_parallel) do not go into one router; set one of both "
              "to 1, and list several routers for more",
              dense.data_parallel(), dense.tensor_parallel()));
  }

  void check_workers() {
    const auto& workers = config_.experts().workers();
    if (workers.empty())
      add("experts.workers", "missing; list at least one worker, or set transport.kind to loopback");
    if (workers.size() > kMaxWorkers)
      add("experts.workers", fmt::format("{} workers are more than {}", workers.size(), kMaxWorkers));
    const bool is_loopback = config_.transport().kind() == "loopback";
    check_device("experts.device", config_.experts().device());
    for (int i = 0; i < workers.size(); ++i) {
      const config::Worker& worker = workers[i];
      const std::string key = fmt::format("experts.workers[{}]", i);
      check_unique(key + ".name", worker.name(), "name");
      check_name(key + ".name", worker.name());
      if (worker.device() != config_.experts().device()) check_device(key + ".device", worker.device());
      if (!worker.address().empty()) {
        check_address(key + ".address", worker.address(), /*any_port=*/false);
      } else if (!is_loopback) {
        add(key + ".address",
            fmt::format("missing; worker '{}' needs the HOST:PORT it listens on", worker.name()));
      }
    }
  }

  void check_offload() {
    const std::string& mode = config_.experts().offload().mode();
    if (mode != "disk" && mode != "host") return;
    for (int i = 0; i < config_.experts().workers_size(); ++i) {
      const config::Worker& worker = config_.experts().workers(i);
      const std::string key = fmt::format("experts.workers[{}]", i);
      if (worker.memory_bytes() == 0)
        add(key + ".memory",
            fmt::format("missing; experts.offload.mode is {}: say how much of worker '{}' its experts may "
                        "take at once",
                        mode, worker.name()));
      const std::string& device = worker.device().empty() ? config_.experts().device() : worker.device();
      if (mode == "host" && device == "cpu")
        add("experts.offload.mode",
            fmt::format("host, and worker '{}' is on the CPU, whose memory is the host's; disk is what "
                        "works there",
                        worker.name()));
    }
  }

  void check_name(const std::string& key, const std::string& name) {
    if (name.empty()) return add(key, "missing; give it a name such as w0");
    if (!is_name(name))
      add(key, fmt::format("'{}' is not a name; use up to {} letters, digits, '.', '_' and '-'", name,
                           kMaxNameBytes));
  }

  // Empty: another key decides.
  void check_device(const std::string& key, const std::string& device) {
    std::string_view index = device;
    const bool numbered = index.starts_with("cuda:");
    if (numbered) index.remove_prefix(std::string_view("cuda:").size());
    const bool is_index = !index.empty() && index.size() <= 3 && std::ranges::all_of(index, is_digit);
    if (device.empty() || device == "auto" || device == "cpu" || device == "cuda" || (numbered && is_index))
      return;
    add(key, fmt::format("'{}' is not a device; there are auto, cpu, cuda and cuda:N", device));
  }

  void check_gpu_memory() {
    const config::KvCache& cache = config_.router().kv_cache();
    check_margin("router.kv_cache.memory_margin", cache.memory_margin_millionths());
    check_margin("experts.memory_margin", config_.experts().memory_margin_millionths());
    if (cache.memory_fraction_millionths() == 0) return;
    const auto is_for_gpus = [&](const std::string& key) {
      add("router.kv_cache.memory_fraction",
          fmt::format("it is a part of a GPU's memory, and {} is cpu; give router.kv_cache.memory instead",
                      key));
    };
    const std::string& dense = config_.router().dense().device();
    if (config_.routers().empty() && dense == "cpu") is_for_gpus("router.dense.device");
    for (int i = 0; i < config_.routers_size(); ++i) {
      const std::string& own = config_.routers(i).device();
      if (own == "cpu") is_for_gpus(fmt::format("routers[{}].device", i));
      if (own.empty() && dense == "cpu") is_for_gpus("router.dense.device");
    }
  }

  void check_spill() {
    const config::KvCache& cache = config_.router().kv_cache();
    if (!cache.spill().path().empty() && cache.prefix_caching() == "false")
      add("router.kv_cache.spill.path",
          "what it keeps is found by prefix caching; set router.kv_cache.prefix_caching to true");
  }

  void check_margin(const std::string& key, int64_t millionths) {
    if (millionths >= 1'000'000)
      add(key, "1 is all of a GPU's memory and leaves nothing to use; give a part below 1, such as 0.1");
  }

  void check_unique(const std::string& key, const std::string& name, std::string_view what) {
    const auto [first, is_new] = names_.emplace(name, key);
    if (!is_new && !name.empty())
      add(key, fmt::format("'{}' is also the {} in {}", name, what, first->second));
  }

  void check_address(const std::string& key, const std::string& text, bool any_port) {
    const auto address = parse_host_port(text);
    if (!address) return add(key, address.error().message);
    if (address->port == 0) {
      if (!any_port) add(key, fmt::format("'{}' has port 0; others must know the port, so choose one", text));
      return;
    }
    const auto [first, is_new] = addresses_.emplace(to_string(*address), key);
    if (!is_new) add(key, fmt::format("'{}' is also the address in {}", text, first->second));
  }

  const config::Config& config_;
  std::vector<ConfigProblem> problems_;
  std::map<std::string, std::string> names_, addresses_;  // value -> key that has it
};

}  // namespace

void derive_defaults(config::Config& config) {
  if (config.model().name().empty() && !config.model().path().empty()) {
    const auto folder = std::filesystem::path(config.model().path()).lexically_normal();
    config.mutable_model()->set_name(
        (folder.has_filename() ? folder : folder.parent_path()).filename().string());
  }
  config::Router& router = *config.mutable_router();
  if (router.host().empty()) router.set_host(host_of(router.http().listen()));
  for (config::RouterOfList& listed : *config.mutable_routers())
    if (listed.host().empty()) listed.set_host(host_of(listed.listen()));
  if (config.transport().kind() == "loopback" && config.experts().workers().empty()) {
    config::Worker& local = *config.mutable_experts()->add_workers();
    local.set_name("local");
    local.set_speed_millionths(1'000'000);
  }
  config::Transport& transport = *config.mutable_transport();
  if (transport.dispatch_codec().empty()) transport.set_dispatch_codec(transport.codec());
  if (transport.combine_codec().empty()) transport.set_combine_codec(transport.codec());
  for (config::Worker& worker : *config.mutable_experts()->mutable_workers()) {
    if (worker.device().empty()) worker.set_device(config.experts().device());
    if (worker.host().empty()) worker.set_host(host_of(worker.address()));
    if (worker.dispatch_codec().empty()) worker.set_dispatch_codec(transport.dispatch_codec());
    if (worker.combine_codec().empty()) worker.set_combine_codec(transport.combine_codec());
  }
}

std::vector<ConfigProblem> check_config(const config::Config& config) { return Checker(config).run(); }

}  // namespace guildhall
