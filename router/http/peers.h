// peers.h: the other routers of the configuration, as this one knows them: what load they told last, what was
// sent there since, and which prompts went there. A request goes to a peer by the formula that spreads over
// replicas (router/spread.h), with a margin as the peers' handicap. A peer that does not answer in time, or
// fails a request, is left out until it answers again. Any thread; polling runs on the server's threads.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "router/engine_client.h"
#include "router/http/peer_options.h"
#include "router/prefix_table.h"
#include "router/spread.h"
#include "router/status_board.h"

namespace guildhall {

class Peers {
 public:
  Peers(PeerOptions options, boost::asio::io_context& context);

  void start();
  void stop();  // polling ends soon; the context runs out of this work

  bool none() const { return options_.peers.empty(); }
  // Who should have this request rather than we, where `local` is what it meets here. Nothing: we.
  std::optional<size_t> choose(const EngineRequest& request, const SpreadCandidate& local) const;
  // The least loaded, for a request that cannot be served here.
  std::optional<size_t> least_loaded() const;
  const PeerOptions::Peer& peer(size_t idx) const { return options_.peers[idx]; }

  void record_sent(size_t idx, const EngineRequest* request);  // null: not looked at
  void record_failure(size_t idx, const std::string& why);
  bool answers(size_t idx) const;
  std::vector<PeerStatus> status() const;

 private:
  struct State {
    explicit State(size_t max_keys) : prefixes(max_keys) {}
    bool answers = false;
    int64_t told_tokens = 0, sent_tokens = 0;  // sent since it told
    int64_t num_sent = 0, num_failed = 0;
    PrefixTable prefixes;
  };

  boost::asio::awaitable<void> poll(size_t idx);
  void take_answer(size_t idx, const std::string& answer);
  std::vector<PrefixKey> prefix_keys(const EngineRequest& request) const;

  const PeerOptions options_;
  boost::asio::strand<boost::asio::io_context::executor_type> strand_;  // of the polls
  std::vector<std::unique_ptr<boost::asio::steady_timer>> timers_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;  // guards states_
  std::vector<State> states_;
};

}  // namespace guildhall
