// empty_experts.h: expert workers that compute nothing, each in a process of its own: every row that was
// dispatched comes back as it is. What remains of a layer's time is the exchange.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "transport/ucx_exchange.h"

namespace guildhall {

class EmptyExperts {
 public:
  struct Options {
    int num_workers = 1;
    bool copies_rows = true;  // else answers have whatever stood in their memory
    bool pinned = false;      // worker i to core i + 1
    UcxOptions ucx;
  };
  // Forks one process per worker; call before this process opens UCX itself.
  explicit EmptyExperts(const Options& options);
  ~EmptyExperts();  // ends them
  EmptyExperts(const EmptyExperts&) = delete;
  EmptyExperts& operator=(const EmptyExperts&) = delete;

  // Connects `exchange` to every worker and them to it; exits on failure.
  std::vector<PeerId> meet(Exchange& exchange);

 private:
  struct Process {
    pid_t pid;
    int socket;
  };
  std::vector<Process> processes_;
};

}  // namespace guildhall
