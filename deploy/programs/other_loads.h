// other_loads.h: the loads of the other routers of the file, asked for every few seconds, for the one that
// balances. Owner: the io thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "router/balanced_cluster.h"
#include "router/http/ask_loads.h"

namespace guildhall {

class OtherLoads {
 public:
  OtherLoads(boost::asio::io_context& io, LoadsQuestion question);

  // Asks anew when the last answers are kOtherLoadsAge old.
  void refresh(Clock::time_point now);
  // What those who answered last had to do.
  void add_to(Loads& loads) const;
  int64_t num_steps() const;  // of all of them since they began, as each said last

 private:
  struct State;
  boost::asio::io_context& io_;
  const std::shared_ptr<State> state_;  // outlives this in a question under way
};

inline constexpr std::chrono::seconds kOtherLoadsAge{2};

}  // namespace guildhall
