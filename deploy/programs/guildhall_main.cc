// guildhall: the operator's command: up, config check, plan, balance.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "deploy/programs/balance_command.h"
#include "deploy/programs/config_command.h"
#include "deploy/programs/plan_command.h"
#include "deploy/programs/up.h"

namespace guildhall {
namespace {

int report(const Result<void>& result) {
  if (!result.has_error()) return 0;
  fmt::print(stderr, "guildhall: {}\n", result.error().message);
  return result.error().code == Code::invalid_argument ? 2 : 1;
}

void add_balance_options(CLI::App& balance, BalanceArguments& arguments) {
  balance.add_option("--trace", arguments.trace, "Routing trace (proto/TRACE.md)")->required();
  balance.add_option("--config", arguments.config, "Configuration file (YAML): workers and balance")
      ->required();
  balance.add_option("--policy", arguments.policies,
                     "static, eplb, eplb_node, activation, incremental; several may be given (default: "
                     "balance.policy)");
  balance.add_option("--html", arguments.html, "Where to write a heat map of the load before and after");
  balance.add_flag("--layers", arguments.show_layers, "Print the balancedness of each layer");
  balance
      .add_option("--read-rate", arguments.read_gb_per_s, "GB/s at which a worker of speed 1 reads weights")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  balance.add_option("--compute", arguments.gflop_per_s, "GFLOP/s of a worker of speed 1")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  balance
      .add_option("--move-rate", arguments.move_gb_per_s,
                  "GB/s at which experts move (default: balance.move_rate)")
      ->check(CLI::PositiveNumber);
  balance
      .add_option("--move-slowdown", arguments.move_slowdown,
                  "How much longer steps take while experts move (default: balance.move_slowdown)")
      ->check(CLI::NonNegativeNumber);
}

void add_plan_options(CLI::App& plan, PlanArguments& arguments) {
  plan.add_option("--config", arguments.config, "Configuration file (YAML)");
  plan.add_option("--model", arguments.model,
                  "Checkpoint folder, in place of a configuration; needs --workers");
  plan.add_option("--workers", arguments.num_workers, "So many workers instead of the configuration's")
      ->check(CLI::Range(1, 4096));
  plan.add_option("--device", arguments.device,
                  "cpu or cuda: of all processes instead of the configuration's")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  plan.add_option("--worker-memory", arguments.worker_memory, "Memory of each worker's GPU or host: 80GiB");
  plan.add_option("--router-memory", arguments.router_memory, "Memory of each router's GPU or host");
  plan.add_option("--trace", arguments.trace, "Routing trace (proto/TRACE.md): what it says of this plan");
  plan.add_flag("--json", arguments.json, "Print JSON");
  plan.add_flag("--suggest", arguments.suggest, "Print a configuration made of what fits");
}

// 0: fits, 1: does not, 2: what was given cannot be read.
int report_plan(const Result<bool>& fits) {
  if (!fits.has_error()) return *fits ? 0 : 1;
  fmt::print(stderr, "guildhall: {}\n", fits.error().message);
  return 2;
}

std::filesystem::path program_dir() { return std::filesystem::read_symlink("/proc/self/exe").parent_path(); }

int run(int argc, char** argv) {
  CLI::App app("Serves mixture-of-experts models across machines.", "guildhall");
  app.set_version_flag("--version", std::string(GUILDHALL_VERSION));
  app.require_subcommand(1);
  std::string file;
  std::optional<std::string> host;

  CLI::App* up =
      app.add_subcommand("up", "Start the processes of the configuration that belong on this host");
  up->add_option("--config", file, "Configuration file (YAML)")->required();
  up->add_option("--host", host, "Which host of the configuration this is (default: matched by address)");

  CLI::App* config = app.add_subcommand("config", "Look at configuration files");
  config->require_subcommand(1);
  CLI::App* check =
      config->add_subcommand("check", "Read a configuration as the daemons would and show what it means");
  check->add_option("FILE", file, "Configuration file (YAML)")->required();

  PlanArguments planning;
  CLI::App* plan =
      app.add_subcommand("plan", "Say before loading whether a configuration fits, and what would");
  add_plan_options(*plan, planning);

  BalanceArguments balancing;
  CLI::App* balance =
      app.add_subcommand("balance", "Replay a routing trace and show what balancing would make of it");
  add_balance_options(*balance, balancing);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  signal(SIGPIPE, SIG_IGN);
  if (up->parsed()) return report(run_up({file, host, program_dir()}));
  if (plan->parsed()) return report_plan(run_plan(planning));
  if (balance->parsed()) return report(run_balance(balancing));
  return report(check_config_file(file));
}

}  // namespace
}  // namespace guildhall

int main(int argc, char** argv) { return guildhall::run(argc, argv); }
