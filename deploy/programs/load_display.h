// load_display.h: loading progress and the summary at its end, as lines for people on standard output.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "deploy/programs/health_client.h"

namespace guildhall {

// One line that is rewritten on a terminal, and printed anew each kLineInterval elsewhere.
class LoadDisplay {
 public:
  LoadDisplay();
  ~LoadDisplay();  // ends the line
  void show(const RouterHealth& health);

 private:
  std::string line(const RouterHealth& health) const;
  const bool terminal_;
  const Clock::time_point started_ = Clock::now();
  Clock::time_point last_shown_{};
  std::string last_line_;
};

// One line per worker, KV capacity, the URL and a curl line.
void print_summary(const RouterHealth& health, const std::string& url, const std::string& model);
// For a host without the router: one line per worker.
void print_workers(const RouterHealth& health);

}  // namespace guildhall
