// expert_moves.h: experts come and go while the worker serves. Additions are carried out one after the other,
// in the background; what they bring is announced when it can be dispatched to. Drops are announced at once,
// and their memory is freed when no router asks for them any more. Whatever dies in between, what is
// announced is held. Where experts are offloaded an addition brings nothing: they are read from where the
// others are when they are needed. Owner: the io thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "experts/expert_loader.h"
#include "experts/holdings.h"
#include "experts/peer_link.h"
#include "experts/worker.h"
#include "transport/control/control_link.h"

namespace guildhall {

inline constexpr size_t kMaxMoves = 64;  // that wait here, of all routers; more are refused

struct ExpertMovesHooks {
  // What is held, or the memory it takes, has changed.
  std::function<void(bool is_new_version)> changed;
  std::function<void(const LinkPtr& router, const control::MoveStatus& status)> tell;
  // The newest announcement that every router that was told of any has seen.
  std::function<uint32_t()> seen_by_all;
};

class ExpertMoves {
 public:
  // `spec` and `worker` are borrowed.
  ExpertMoves(boost::asio::io_context& io, ExpertLoaderOptions loader, PeerLinkOptions peers,
              const ModelSpec& spec, Worker& worker, ExpertMovesHooks hooks);
  ~ExpertMoves();  // cancels what is under way

  // These were loaded: the first announcement. Moves are refused before.
  void start(const ExpertsOfLayer& experts_l, int64_t bytes);

  void add(const LinkPtr& router, const control::AddExperts& message);
  void drop(const LinkPtr& router, const control::DropExperts& message);
  void check_seen();  // seen_by_all() may have changed
  // The router's link has ended. What was begun for it is finished and announced; what waits is forgotten.
  void forget(const LinkPtr& router);

  const ExpertHoldings& holdings() const;
  int64_t resident_bytes() const;  // of experts held or retiring

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace guildhall
