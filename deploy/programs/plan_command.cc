#include "deploy/programs/plan_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/log.h"
#include "base/units.h"
#include "deploy/programs/hosts.h"
#include "deploy/programs/model_files.h"
#include "deploy/programs/plan_report.h"
#include "kernels/make_ops.h"
#include "proto/config_check.h"
#include "proto/config_yaml.h"

namespace guildhall {
namespace {

// What this machine has of a device that is asked for.
struct Found {
  bool is_gpu = false;
  std::string name;
  int64_t total_bytes = 0;
};

// Finds out where processes will run, and in how much memory: as options say, and what runs here as this
// machine has it.
class DeviceFinder {
 public:
  DeviceFinder(std::optional<int64_t> router_bytes, std::optional<int64_t> worker_bytes)
      : router_bytes_(router_bytes), worker_bytes_(worker_bytes) {}

  PlannedDevices find(const config::Config& config) {
    std::set<std::string> routers_here;
    std::set<int> workers_here;
    if (const Result<HostPlan> here = plan_for_host(config, std::nullopt)) {
      workers_here.insert(here->workers.begin(), here->workers.end());
      for (const RouterOfFile& router : here->routers) routers_here.insert(router.settings.name());
    }
    PlannedDevices devices;
    for (const RouterOfFile& router : routers_of(config))
      devices.router_r.push_back(device(router.settings.dense().device(), router_bytes_, "--router-memory",
                                        routers_here.contains(router.settings.name())));
    for (int w = 0; w < config.experts().workers_size(); ++w)
      devices.worker_w.push_back(device(config.experts().workers(w).device(), worker_bytes_,
                                        "--worker-memory", workers_here.contains(w)));
    if (config.transport().kind() == "loopback") share_process(devices);
    return devices;
  }

  // What was assumed of devices that are not here.
  std::vector<std::string> notes() const {
    if (!assumed_) return {};
    return {
        fmt::format("device auto of other hosts: taken for a {}, as this machine would choose; say "
                    "--device if it is not",
                    assumed_->is_gpu ? "GPU" : "CPU")};
  }

 private:
  // The workers are in the router's process; on CPUs in the same memory.
  static void share_process(PlannedDevices& devices) {
    PlannedDevice& router = devices.router_r.front();
    for (PlannedDevice& worker : devices.worker_w) {
      if (router.is_gpu || worker.is_gpu) continue;
      if (router.pool.empty()) router.pool = "the router's process";
      worker = router;
    }
  }

  PlannedDevice device(const std::string& asked, std::optional<int64_t> bytes, const std::string& option,
                       bool is_here) {
    PlannedDevice planned{.is_gpu = asked.starts_with("cuda")};
    const bool matters = asked == "auto" || (planned.is_gpu && is_here);
    const std::optional<Found> found = matters ? probe(asked) : std::nullopt;
    if (asked == "auto" && found) planned.is_gpu = found->is_gpu;
    if (asked == "auto" && !is_here) assumed_ = found;
    const int64_t host_bytes = host_memory().figures().total_bytes;
    if (is_here && planned.is_gpu) planned.host_bytes = host_bytes;
    if (bytes) {
      planned.total_bytes = *bytes, planned.from = option;
    } else if (is_here && planned.is_gpu && found) {
      planned.total_bytes = found->total_bytes, planned.from = planned.pool = found->name;
    } else if (is_here && !planned.is_gpu) {
      planned.total_bytes = host_bytes, planned.from = planned.pool = "this host";
    }
    return planned;
  }

  std::optional<Found> probe(const std::string& device) {
    const auto [known, is_new] = found_.emplace(device, std::nullopt);
    if (is_new)
      if (const auto ops = make_ops(device, {})) {
        const DeviceMemory& memory = (*ops)->memory();
        known->second = Found{!memory.is_host(), memory.name(), memory.figures().total_bytes};
      }
    return known->second;
  }

  const std::optional<int64_t> router_bytes_, worker_bytes_;
  std::map<std::string, std::optional<Found>> found_;
  std::optional<Found> assumed_;
};

Result<std::optional<int64_t>> memory_option(const char* option, const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  const Result<int64_t> bytes = parse_bytes(*text);
  if (bytes.has_error() || *bytes == 0)
    return Status{Code::invalid_argument, fmt::format("{}: '{}' is not a size such as 80GiB", option, *text)};
  return *bytes;
}

void set_device(config::Config& config, const std::string& device) {
  config.mutable_router()->mutable_dense()->set_device(device);
  for (config::RouterOfList& router : *config.mutable_routers()) router.clear_device();
  config.mutable_experts()->set_device(device);
  for (config::Worker& worker : *config.mutable_experts()->mutable_workers()) worker.set_device(device);
}

Result<config::Config> read_plan_config(const PlanArguments& arguments) {
  if (arguments.config.empty() == arguments.model.empty())
    return Status{Code::invalid_argument, "give either --config FILE or --model FOLDER"};
  config::Config config;
  if (!arguments.config.empty()) {
    GH_ASSIGN(config, read_config(arguments.config));
  } else {
    if (!arguments.num_workers) return Status{Code::invalid_argument, "--model needs --workers"};
    const std::string text =  // addresses to be replaced
        "model: {path: .}\n"
        "router: {host: 10.0.0.1, http: {listen: \"0.0.0.0:8000\"}}\n"
        "experts: {workers: [{name: w0, address: \"10.0.1.1:7000\"}]}\n";
    GH_ASSIGN(config, parse_config(text, "--model"));
    config.mutable_model()->set_path(arguments.model.string());
    config.mutable_model()->clear_name();
    derive_defaults(config);
  }
  if (arguments.num_workers) set_num_workers(config, *arguments.num_workers);
  if (!arguments.device.empty()) set_device(config, arguments.device);
  return config;
}

// A folder without weights yet is planned from its config.json.
bool has_weights(const std::filesystem::path& dir) {
  std::error_code ignored;
  return std::ranges::any_of(std::filesystem::directory_iterator(dir, ignored), [](const auto& entry) {
    return entry.path().extension() == ".safetensors" ||
           entry.path().filename() == "model.safetensors.index.json";
  });
}

struct Suggestion {
  std::string yaml;
  bool fits = false;
};
// Workers first: what they take of a host that is shared is not there for caches. `config` is as planned,
// `load` the model.load that was written.
Result<Suggestion> suggest(const std::string& load, config::Config config, const ModelSpec& spec,
                           ClusterPlan plan, const PlannedDevices& devices) {
  config.mutable_model()->set_path(std::filesystem::absolute(config.model().path()).lexically_normal());
  config = suggest_workers(config, spec, plan);
  GH_ASSIGN(plan, plan_memory(config, spec, devices));
  config = suggest_cache(config, spec, plan, devices);
  GH_ASSIGN(plan, plan_memory(config, spec, devices));
  const PlanAdvice advice = advise(config, spec, plan);
  config.mutable_model()->set_load(load);
  std::string yaml = fmt::format("# guildhall plan --suggest: {}\n", plan.fits() ? "fits" : "does not fit");
  for (const std::string& problem : plan.problems) yaml += fmt::format("# {}\n", problem);
  for (const std::string& line : advice.lines) yaml += fmt::format("# {}\n", line);
  return Suggestion{yaml + describe_config(config), plan.fits()};
}

}  // namespace

Result<bool> run_plan(const PlanArguments& arguments) {
  init_log("guildhall", "error");  // standard output is the plan's
  GH_ASSIGN(const std::optional<int64_t> worker_bytes,
            memory_option("--worker-memory", arguments.worker_memory));
  GH_ASSIGN(const std::optional<int64_t> router_bytes,
            memory_option("--router-memory", arguments.router_memory));
  GH_ASSIGN(config::Config config, read_plan_config(arguments));
  GH_ASSIGN(const ModelSpec spec, read_spec(config));
  DeviceFinder finder(router_bytes, worker_bytes);
  const PlannedDevices devices = finder.find(config);
  std::vector<std::string> notes = finder.notes();
  config::Config planned = config;
  if (!has_weights(config.model().path())) {
    planned.mutable_model()->set_load("dummy");
    notes.push_back(fmt::format("{} has no weights: planned from its config.json", config.model().path()));
  }
  GH_ASSIGN(ClusterPlan plan, plan_memory(planned, spec, devices));

  Suggestion suggestion;
  if (arguments.suggest) {
    GH_ASSIGN(suggestion, suggest(config.model().load(), planned, spec, plan, devices));
    if (!arguments.json) fmt::print("{}", suggestion.yaml);
    if (!arguments.json) return suggestion.fits;
  }
  PlanAdvice advice = advise(config, spec, plan);
  PlanReport report{config, spec, std::move(plan), std::move(advice), std::nullopt, std::move(notes)};
  if (!arguments.trace.empty()) {
    GH_ASSIGN(report.trace, read_trace_outlook(arguments.trace, config, spec, report.plan));
  }
  fmt::print("{}", arguments.json ? plan_json(report, suggestion.yaml) : plan_text(report));
  return arguments.suggest ? suggestion.fits : report.plan.fits();
}

}  // namespace guildhall
