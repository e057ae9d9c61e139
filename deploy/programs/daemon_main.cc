#include "deploy/programs/daemon_main.h"

#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "base/trace.h"
#include "deploy/programs/routers.h"
#include "deploy/programs/spill_check.h"
#include "proto/config_yaml.h"

namespace guildhall {
namespace {

void begin_trace(const config::Trace& trace, const std::string& process) {
  if (trace.file().empty()) return;
  start_trace(
      {.file = trace_file_of(trace.file(), process), .process = process, .max_events = trace.max_events()});
  name_trace_thread("main");
}

}  // namespace

int daemon_main(int argc, char** argv, const DaemonOptions& options,
                const std::function<Result<void>(DaemonStart)>& run) {
  CLI::App app(options.description, options.program);
  app.set_version_flag("--version", std::string(GUILDHALL_VERSION));
  std::string file, name;
  app.add_option("--config", file, "Configuration file (YAML)")->required();
  auto* name_option = app.add_option("--name", name, "Which process of the configuration this is");
  if (!options.is_router) name_option->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);  // until there is a configuration to read again
  const Result<config::Config> of_file = read_config(file);
  Result<config::Config> config = of_file;
  if (config && options.is_router) config = config_of_router(*config, name);
  if (config && options.is_router)
    if (const auto checked = check_spill(*config, file); checked.has_error()) config = checked.error();
  if (config.has_error()) {
    fmt::print(stderr, "{}\n", config.error().message);
    return 2;
  }
  init_log(name.empty() ? options.program : name, config->log().level());
  begin_trace(config->trace(), name.empty() ? config->router().name() : name);
  const Result<void> served = run({file, *of_file, *std::move(config), name});
  const Result<void> traced = write_trace();
  if (traced.has_error()) log_warn("trace_failed", "{}", to_string(traced.error()));
  if (served.has_error()) {
    log_error("fatal", "{}", to_string(served.error()));
    return 1;
  }
  return 0;
}

}  // namespace guildhall
