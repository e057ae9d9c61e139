// server.h: the OpenAI-compatible HTTP server. It listens before the model is loaded (health tells progress),
// gets the engine later, and drains on the way out.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/chat_template/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "router/engine_client.h"
#include "router/expert_monitor.h"
#include "router/http/api_keys.h"
#include "router/http/cluster_calls.h"
#include "router/http/deadline.h"
#include "router/http/peer_options.h"
#include "router/status_board.h"

namespace guildhall {

struct HttpServerOptions {
  std::string listen = "0.0.0.0:8000";  // HOST:PORT, [IPV6]:PORT; port 0: any free one
  int num_threads = 2;
  int max_connections = 1024;            // beyond it, POST gets 503
  int64_t max_body_bytes = 16 << 20;     // 413 beyond it, before it is read
  uint32_t max_header_bytes = 32 << 10;  // 431 beyond it
  std::chrono::milliseconds read_timeout{
      30'000};  // a request, from its first byte to its last: 408 beyond it
  std::chrono::milliseconds write_timeout{
      30'000};  // without any progress: the connection and its request end
  std::chrono::milliseconds idle_timeout{120'000};  // between requests
  CallLimits limits;                                // for completions
  std::chrono::milliseconds ping_interval{10'000};  // silence in a stream before a comment is sent
  std::shared_ptr<const ApiKeys> api_keys;          // null: everyone may use the API
  std::vector<std::string> cors_origins;            // cors.h
  PeerOptions peers;                                // to whom requests may be forwarded
  std::vector<PeerOptions::Peer> routers;           // all others, whose experts' loads are summed
  ClusterCalls cluster;
  std::string model_name;     // what /v1/models lists and `model` must be
  int32_t max_model_len = 0;  // tokens of prompt and completion together
  int32_t vocab_size = 0;     // ids the model knows, often more than the tokenizer; 0: the tokenizer's
};

// Owns its threads; they own connections only. Created, attached and stopped by one thread (main's).
class HttpServer {
 public:
  // Listens at once. Until attach(), requests that need the model get 503. `status` outlives the server.
  // Errors name the address: malformed, not ours, or in use.
  static Result<std::unique_ptr<HttpServer>> start(HttpServerOptions options, const StatusSource& status);
  ~HttpServer();  // stop() without waiting for streams

  // The model is ready. All outlive stop(). Without `eos_token_ids`, the tokenizer's eos ends a completion;
  // without `chat_template`, conversations are refused; without `monitor`, nothing is told of the experts.
  // Once.
  void attach(EngineClient& engine, const Tokenizer& tokenizer, std::vector<int32_t> eos_token_ids = {},
              const ChatTemplate* chat_template = nullptr, ExpertMonitor* monitor = nullptr);

  // Any thread, once there is a monitor and until stop(): asks the other routers for their loads. `done` is
  // called on a thread of the server, within a few seconds.
  void ask_loads(std::function<void(std::vector<RouterAnswer>)> done);

  std::string address() const;  // "127.0.0.1:8000", with the real port
  uint16_t port() const;

  // Stops accepting, lets requests under way end until `drain_limit`, then cuts the rest (which cancels them
  // in the engine). Afterwards no thread of the server runs and no sink of it wakes anything.
  void stop(std::chrono::milliseconds drain_limit);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace guildhall
