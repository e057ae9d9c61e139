// service.h: what every connection shares: options, status, and the model once it is attached. No sockets.
#pragma once

#include <atomic>
#include <memory>

#include "router/http/ask_loads.h"
#include "router/http/completions.h"
#include "router/http/http_counters.h"
#include "router/http/message.h"
#include "router/http/peers.h"
#include "router/http/server.h"

namespace guildhall {

struct ModelBackend {
  EngineClient& engine;
  CompletionRules rules;
  ExpertMonitor* monitor;  // null: nothing is told of the experts
};

// Any thread.
class HttpService {
 public:
  HttpService(HttpServerOptions options, const StatusSource& status, boost::asio::io_context& context)
      : options_(std::move(options)),
        cors_(options_.cors_origins),
        status_(status),
        peers_(options_.peers, context) {}

  void attach(EngineClient& engine, const Tokenizer& tokenizer, std::vector<int32_t> eos_token_ids,
              const ChatTemplate* chat_template, ExpertMonitor* monitor);
  const ModelBackend* backend() const {
    return backend_.load(std::memory_order_acquire);
  }  // null while loading
  const HttpServerOptions& options() const { return options_; }
  Peers& peers() const { return peers_; }
  ExpertMonitor* monitor() const;        // null while loading, too
  LoadsQuestion loads_question() const;  // where there is a monitor
  const CorsPolicy& cors() const { return cors_; }

  // POST /v1/completions and /v1/chat/completions are the connection's business, as they take time, and so is
  // GET /v1/cluster/experts, which asks other routers; everything else is answered by respond().
  static bool is_completion(const HttpRequest& request);
  static bool is_chat(const HttpRequest& request);
  static bool is_experts(const HttpRequest& request);
  // Whose key the request came with; 401 where one is needed and this is none.
  ApiResult<Tenant> authenticate(const HttpRequest& request, std::string_view authorization) const;
  HttpReply respond(const HttpRequest& request) const;
  ApiError not_ready() const;

  // The request was answered with `status`; 499: its client left first.
  void count_answer(const HttpRequest& request, int status) const;
  HttpCounters& counters() const { return counters_; }

 private:
  ServingStatus status() const;
  HttpReply options_reply(const HttpRequest& request, const std::string& methods) const;
  HttpReply health() const;
  HttpReply load() const;
  HttpReply balance() const;
  HttpReply reload() const;
  HttpReply metrics() const;
  HttpReply models() const;
  HttpReply model(std::string_view id) const;
  HttpReply tokenizer_info(const ModelBackend& backend) const;
  HttpReply tokenize(const ModelBackend& backend, const HttpRequest& request) const;
  HttpReply apply_template(const ModelBackend& backend, const HttpRequest& request) const;
  HttpReply detokenize(const ModelBackend& backend, const HttpRequest& request) const;

  const HttpServerOptions options_;
  const CorsPolicy cors_;
  const StatusSource& status_;
  mutable Peers peers_;            // any thread
  mutable HttpCounters counters_;  // any thread
  std::unique_ptr<const ModelBackend> owned_backend_;
  std::atomic<const ModelBackend*> backend_{nullptr};
};

}  // namespace guildhall
