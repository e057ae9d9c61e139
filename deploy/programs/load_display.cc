#include "deploy/programs/load_display.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/units.h"

namespace guildhall {
namespace {

constexpr std::chrono::seconds kLineInterval{1};

std::string share(int64_t done, int64_t total) {
  return total > 0 ? fmt::format("{}%", done * 100 / total) : "-";
}

}  // namespace

LoadDisplay::LoadDisplay() : terminal_(isatty(STDOUT_FILENO) != 0) {}

LoadDisplay::~LoadDisplay() {
  if (terminal_ && !last_line_.empty()) fmt::print("\n");
}

void LoadDisplay::show(const RouterHealth& health) {
  const auto now = Clock::now();
  if (!terminal_ && now - last_shown_ < kLineInterval) return;
  const std::string text = line(health);
  if (text == last_line_) return;
  last_shown_ = now;
  last_line_ = text;
  if (terminal_)
    fmt::print("\r\033[K{}", text);
  else
    fmt::print("{}\n", text);
  std::fflush(stdout);
}

std::string LoadDisplay::line(const RouterHealth& health) const {
  int64_t done = health.bytes_done, total = health.bytes_total;
  std::string parts =
      health.state.empty() ? "" : fmt::format("router {}", share(done, total));  // empty: not here
  for (const WorkerHealth& w : health.workers) {
    done += w.bytes_done, total += w.bytes_total;
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", w.name,
                         w.state == "loading" ? share(w.bytes_done, w.bytes_total) : w.state);
  }
  if (total == 0) return fmt::format("loading ({})", parts);
  const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string eta = "-";
  if (rate > 0 && total > done)
    eta = format_duration(
        std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>(total - done) / rate * 1e9)));
  return fmt::format("loading {} of {}, {}/s, ETA {} ({})", format_bytes(done), format_bytes(total),
                     format_bytes(static_cast<int64_t>(rate)), eta, parts);
}

namespace {
void print_worker(const WorkerHealth& w) {
  fmt::print("  {:<8} {:<22} {:>5} experts  {:>10}  {}\n", w.name, w.address, w.num_experts,
             format_bytes(w.resident_bytes), w.transport);
}
}  // namespace

void print_workers(const RouterHealth& health) {
  for (const WorkerHealth& w : health.workers) print_worker(w);
  fmt::print("\nReady for the router until Ctrl-C.\n");
  std::fflush(stdout);
}

void print_summary(const RouterHealth& health, const std::string& url, const std::string& model) {
  for (const WorkerHealth& w : health.workers) print_worker(w);
  std::string replicas;
  for (const ReplicaHealth& r : health.replicas) replicas += fmt::format(" {} {}", r.name, r.state);
  if (health.replicas.size() > 1) fmt::print("  replicas:{}\n", replicas);
  fmt::print("  KV cache: {} tokens\n\n", health.kv_capacity_tokens);
  fmt::print("Serving {} at {}/v1\n\n", model, url);
  fmt::print("  curl {}/v1/completions -H 'content-type: application/json' \\\n", url);
  fmt::print("    -d '{{\"model\": \"{}\", \"prompt\": \"And it came to pass\", \"max_tokens\": 64}}'\n\n",
             model);
  std::fflush(stdout);
}

}  // namespace guildhall
