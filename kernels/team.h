// team.h: a fixed set of compute threads that run a kernel's independent tasks.
// One owner thread calls parallel_for; it takes part itself. Results never depend on which thread ran a task.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace guildhall {

struct TeamOptions {
  int num_threads = 1;       // including the caller
  int64_t spin_ns = 20'000;  // how long an idle member spins before it sleeps; 0 on crowded machines
};

class Team {
 public:
  explicit Team(TeamOptions options);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int num_threads() const;

  // Runs task(i) once for each i in [0, num_tasks), in any order, and returns when all are done.
  // Not re-entrant: a task must not call parallel_for of the same team.
  void parallel_for(int64_t num_tasks, const std::function<void(int64_t)>& task);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace guildhall
