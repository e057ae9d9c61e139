#include "deploy/programs/other_loads.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <numeric>

#include "base/log.h"

namespace guildhall {

struct OtherLoads::State {
  explicit State(LoadsQuestion question_)
      : question(std::move(question_)), steps_r(question.routers.size()) {}

  void take(std::vector<RouterAnswer> all) {
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i].loads)
        steps_r[i] = all[i].loads->total_steps;
      else
        log_debug("loads_missing", "router={} reason=\"{}\"", all[i].name, to_string(all[i].loads.error()));
    answers = std::move(all);
    is_asking = false;
  }

  const LoadsQuestion question;
  std::vector<RouterAnswer> answers;
  std::vector<int64_t> steps_r;  // since it began, as each said last
  bool is_asking = false;
  Clock::time_point asked{};
};

namespace {

boost::asio::awaitable<void> ask(LoadsQuestion question,
                                 std::function<void(std::vector<RouterAnswer>)> take) {
  take(co_await ask_loads(std::move(question)));
}

}  // namespace

OtherLoads::OtherLoads(boost::asio::io_context& io, LoadsQuestion question)
    : io_(io), state_(std::make_shared<State>(std::move(question))) {}

void OtherLoads::refresh(Clock::time_point now) {
  if (state_->question.routers.empty() || state_->is_asking || now - state_->asked < kOtherLoadsAge) return;
  state_->is_asking = true;
  state_->asked = now;
  boost::asio::co_spawn(
      io_,
      ask(state_->question, [state = state_](std::vector<RouterAnswer> all) { state->take(std::move(all)); }),
      boost::asio::detached);
}

void OtherLoads::add_to(Loads& loads) const {
  for (const RouterAnswer& answer : state_->answers)
    if (answer.loads) loads += answer.loads->loads;
}

int64_t OtherLoads::num_steps() const {
  return std::accumulate(state_->steps_r.begin(), state_->steps_r.end(), int64_t{0});
}

}  // namespace guildhall
