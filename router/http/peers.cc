#include "router/http/peers.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>

#include "base/log.h"
#include "router/http/upstream.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;
namespace json = boost::json;

// For a peer to tell its load. Beyond it the peer is left out.
constexpr std::chrono::milliseconds kAnswerLimit{1000};
constexpr size_t kMaxAnswer = 64 << 10;
// Keys remembered of each peer: 16 tokens each cover half a million tokens, in about 3 MB.
constexpr size_t kMaxKeys = 1 << 15;

int64_t tokens_of(const EngineRequest& request) {
  return static_cast<int64_t>(request.prompt_ids.size()) +
         std::min<int64_t>(request.max_tokens, kExpectedTokens);
}

// The load of an answer to GET /load, from a peer that serves.
std::optional<int64_t> read_load(const std::string& answer) {
  const size_t end = answer.find("\r\n\r\n");
  const auto head = parse_upstream_head(std::string_view(answer).substr(0, end));
  if (end == answer.npos || !head || head->status != 200) return std::nullopt;
  boost::system::error_code error;
  const json::value body = json::parse(std::string_view(answer).substr(end + 4), error);
  if (error || !body.is_object()) return std::nullopt;
  const json::value* tokens = body.get_object().if_contains("outstanding_tokens");
  if (tokens == nullptr || !tokens->is_int64() || tokens->get_int64() < 0) return std::nullopt;
  return tokens->get_int64();
}

}  // namespace

Peers::Peers(PeerOptions options, asio::io_context& context)
    : options_(std::move(options)), strand_(asio::make_strand(context)) {
  for (size_t i = 0; i < options_.peers.size(); ++i) {
    timers_.push_back(std::make_unique<asio::steady_timer>(strand_));
    states_.emplace_back(kMaxKeys);
  }
}

void Peers::start() {
  for (size_t i = 0; i < options_.peers.size(); ++i) asio::co_spawn(strand_, poll(i), asio::detached);
}

void Peers::stop() {
  stopping_ = true;
  asio::post(strand_, [this] {
    for (const auto& timer : timers_) timer->cancel();
  });
}

asio::awaitable<void> Peers::poll(size_t idx) {
  const HostPort& address = options_.peers[idx].address;
  const std::string question = fmt::format("GET /load HTTP/1.0\r\nhost: {}\r\n\r\n", to_string(address));
  while (!stopping_) {
    const auto upstream = std::make_shared<Upstream>(strand_);
    take_answer(idx, co_await upstream->ask(address, question, kAnswerLimit, kMaxAnswer));
    if (stopping_) break;
    timers_[idx]->expires_after(options_.interval);
    co_await timers_[idx]->async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

void Peers::take_answer(size_t idx, const std::string& answer) {
  const std::optional<int64_t> load = read_load(answer);
  std::lock_guard lock(mutex_);
  State& state = states_[idx];
  if (load.has_value() != state.answers)
    log_info(load ? "peer_serves" : "peer_left_out", "peer={} address={}", options_.peers[idx].name,
             to_string(options_.peers[idx].address));
  state.answers = load.has_value();
  state.told_tokens = load.value_or(0);
  state.sent_tokens = 0;
}

std::optional<size_t> Peers::choose(const EngineRequest& request, const SpreadCandidate& local) const {
  const std::vector<PrefixKey> keys = prefix_keys(request);
  std::vector<SpreadCandidate> candidates{local};
  std::vector<size_t> peer_of{0};  // of candidates, from the second on
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < states_.size(); ++i) {
      const State& state = states_[i];
      if (!state.answers) continue;
      candidates.push_back(
          {.outstanding_tokens = state.told_tokens + state.sent_tokens,
           .found_tokens = static_cast<int64_t>(state.prefixes.num_found(keys)) * options_.block_size,
           .handicap = options_.margin});
      peer_of.push_back(i);
    }
  }
  const size_t first = rank_candidates(candidates, options_.prefix_affinity).front();
  return first == 0 ? std::nullopt : std::optional(peer_of[first]);
}

std::optional<size_t> Peers::least_loaded() const {
  std::lock_guard lock(mutex_);
  std::optional<size_t> least;
  const auto load = [&](size_t i) { return states_[i].told_tokens + states_[i].sent_tokens; };
  for (size_t i = 0; i < states_.size(); ++i)
    if (states_[i].answers && (!least || load(i) < load(*least))) least = i;
  return least;
}

void Peers::record_sent(size_t idx, const EngineRequest* request) {
  const std::vector<PrefixKey> keys = request ? prefix_keys(*request) : std::vector<PrefixKey>();
  std::lock_guard lock(mutex_);
  State& state = states_[idx];
  ++state.num_sent;
  if (!request) return;
  state.sent_tokens += tokens_of(*request);
  state.prefixes.add(keys);
}

void Peers::record_failure(size_t idx, const std::string& why) {
  log_warn("forward_failed", "peer={} reason=\"{}\"", options_.peers[idx].name, why);
  std::lock_guard lock(mutex_);
  states_[idx].answers = false;
  ++states_[idx].num_failed;
}

bool Peers::answers(size_t idx) const {
  std::lock_guard lock(mutex_);
  return states_[idx].answers;
}

std::vector<PeerStatus> Peers::status() const {
  std::vector<PeerStatus> all;
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < states_.size(); ++i)
    all.push_back({.name = options_.peers[i].name,
                   .address = to_string(options_.peers[i].address),
                   .answers = states_[i].answers,
                   .outstanding_tokens = states_[i].told_tokens + states_[i].sent_tokens,
                   .num_sent = states_[i].num_sent,
                   .num_failed = states_[i].num_failed});
  return all;
}

std::vector<PrefixKey> Peers::prefix_keys(const EngineRequest& request) const {
  std::vector<PrefixKey> keys;
  const std::span<const int32_t> prompt_t = request.prompt_ids;
  const auto affine = static_cast<size_t>(options_.prefix_affinity);
  extend_prefix_keys(prompt_t.first(std::min(prompt_t.size(), affine)), options_.block_size,
                     request.cache_salt, keys);
  return keys;
}

}  // namespace guildhall
