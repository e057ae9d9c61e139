#include "router/http/completion_reply.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <mutex>
#include <set>

#include "base/log.h"
#include "router/http/chat.h"
#include "router/http/chat_json.h"
#include "router/http/deadline.h"
#include "router/http/json_fields.h"
#include "router/http/peer_reply.h"

namespace guildhall {
namespace {

// Unknown fields are told once each, and no more of them than this, so that no client can fill the log.
bool is_new_name(const std::string& name) {
  constexpr size_t kMostNames = 256;
  static std::mutex mutex;
  static std::set<std::string> told;
  std::lock_guard lock(mutex);
  return told.size() < kMostNames && told.insert(name).second;
}

ApiResult<CompletionCall> parse(const HttpService& service, HttpRequest& request) {
  const ModelBackend* backend = service.backend();
  if (!backend) return service.not_ready();
  GH_ASSIGN(boost::json::object body, parse_json_body(request.body));
  const bool chat = HttpService::is_chat(request);
  GH_ASSIGN(CompletionCall call,
            chat ? parse_chat(body, backend->rules) : parse_completion(body, backend->rules));
  std::vector<std::string> unknown = chat ? unknown_chat_fields(body) : unknown_completion_fields(body);
  std::erase_if(unknown, [](const std::string& name) { return !is_new_name(name); });
  if (!call.request_id.empty()) request.request_id = call.request_id;
  if (!unknown.empty())
    log_warn("completion_fields_ignored", "request_id={} fields={}", request.request_id,
             fmt::join(unknown, ","));
  call.tenant = request.tenant.name;
  call.priority = std::max(call.priority, request.tenant.best_priority);
  return call;
}

std::unique_ptr<AnswerJson> make_format(const HttpService& service, const CompletionCall& call) {
  const Tokenizer& tokenizer = *service.backend()->rules.tokenizer;
  if (call.chat) return std::make_unique<ChatJson>(tokenizer, service.options().model_name, call);
  return std::make_unique<CompletionJson>(tokenizer, service.options().model_name, call);
}

// Of events that are written together: what a socket's buffer takes at once.
constexpr size_t kMaxWriteBytes = 64 << 10;

// Characters of JSON's texts at which Python's splitlines() ends a line, and with it clients that read events
// by httpx's lines. (Below a space JSON has escapes for all anyway.)
constexpr std::pair<std::string_view, std::string_view> kLineEnds[] = {
    {"\xc2\x85", "\\u0085"}, {"\xe2\x80\xa8", "\\u2028"}, {"\xe2\x80\xa9", "\\u2029"}};

std::string event(std::string_view data) {
  std::string text = fmt::format("data: {}\n\n", data);
  for (const auto& [character, escape] : kLineEnds)
    for (size_t at = 0; (at = text.find(character, at)) != text.npos; at += escape.size())
      text.replace(at, character.size(), escape);
  return text;
}

// Waits for the engine, for `at_most`; ends the call when its time is over. False: nothing happened.
Task<bool> wait_for_events(ClientSocket& client, Generation& generation, const CallDeadline& deadline,
                           std::chrono::milliseconds at_most) {
  const bool has_tokens = generation.has_tokens();
  if (!deadline.expired(Clock::now(), has_tokens) &&
      co_await client.wait(deadline.wait_time(Clock::now(), has_tokens, at_most)))
    co_return true;
  const Clock::time_point now = Clock::now();
  const bool expired = deadline.expired(now, has_tokens);
  if (expired) generation.expire(deadline.error(now));
  co_return expired;
}

template <class T>
void append(const std::vector<T>& more, std::vector<T>& to) {
  to.insert(to.end(), more.begin(), more.end());
}

// Like answer_stream(), returns the status of the answer.
Task<int> answer_whole(ClientSocket& client, const HttpRequest& request, Generation& generation,
                       const AnswerJson& format, const CallDeadline& deadline) {
  std::vector<ChoiceDelta> choices(generation.num_sequences());
  for (size_t i = 0; i < choices.size(); ++i) choices[i].index = static_cast<int>(i);
  while (!generation.done()) {
    co_await wait_for_events(client, generation, deadline, std::chrono::hours(1));
    if (client.gone()) co_return kClientLeft;
    for (ChoiceDelta& delta : generation.pump()) {
      ChoiceDelta& choice = choices[static_cast<size_t>(delta.index)];
      choice.text += delta.text;
      std::move(delta.tokens.begin(), delta.tokens.end(), std::back_inserter(choice.tokens));
      append(delta.token_ids, choice.token_ids);
      append(delta.routed_experts, choice.routed_experts);
      append(delta.prompt_routed_experts, choice.prompt_routed_experts);
      choice.finish_reason = delta.finish_reason;
    }
  }
  HttpReply reply;
  if (generation.error())
    reply = error_reply(*generation.error());
  else
    reply.body = format.whole(generation.choices(std::move(choices)), generation.usage());
  std::string bytes = to_bytes(reply, request);
  co_await client.write_all(bytes);
  co_return reply.status;
}

// The head goes out with the first event (or ping), so that an engine that fails at once still gets a proper
// status.
Task<int> answer_stream(ClientSocket& client, const HttpRequest& request, Generation& generation,
                        AnswerJson& format, const CallDeadline& deadline,
                        std::chrono::milliseconds ping_interval) {
  bool head_sent = false;
  auto piece = [&](std::string_view text) {
    std::string bytes = std::exchange(head_sent, true) ? "" : stream_head(request);
    return bytes += stream_piece(request, text);
  };
  while (!generation.done()) {
    bool woken = co_await wait_for_events(client, generation, deadline, ping_interval);
    if (client.gone()) co_return kClientLeft;
    if (!woken) {
      std::string bytes = piece(": ping\n\n");
      if (!co_await client.write_all(bytes)) co_return kClientLeft;
      continue;
    }
    const std::vector<ChoiceDelta> deltas = generation.pump();
    // A client that keeps up gets each event by itself. Where tokens wait, all that came go together.
    const size_t write_at = generation.behind() ? kMaxWriteBytes : 1;
    std::string bytes;
    for (const ChoiceDelta& delta : deltas) {
      for (const std::string& data : format.chunks(delta)) {
        bytes += piece(event(data));
        if (bytes.size() < write_at) continue;
        if (!co_await client.write_all(bytes)) co_return kClientLeft;
        bytes.clear();
      }
    }
    if (!co_await client.write_all(bytes)) co_return kClientLeft;
  }
  std::string tail;
  if (generation.error() && !head_sent) {
    tail = to_bytes(error_reply(*generation.error()), request);
    co_await client.write_all(tail);
    co_return generation.error()->http_status;
  }
  if (generation.error()) {
    tail = piece(event(error_body(*generation.error())));
    if (!co_await client.write_all(tail)) co_return kClientLeft;
  } else if (generation.call().include_usage) {
    tail = piece(event(format.usage_chunk(generation.usage())));
    if (!co_await client.write_all(tail)) co_return kClientLeft;
  }
  tail = piece("data: [DONE]\n\n") + stream_end(request);
  co_await client.write_all(tail);
  co_return 200;
}

// What the call's first prompt would ask of an engine: by it a router is chosen.
EngineRequest preview_of(const CompletionCall& call) {
  EngineRequest request;
  request.prompt_ids = call.prompts.front().ids;
  request.max_tokens = call.max_tokens;
  request.cache_salt = cache_salt_of(call);
  return request;
}

bool is_busy(const ApiError& error) { return error.http_status == 429 || error.http_status == 503; }

// The status of a peer's answer, if one answered: it has less to do, or this router cannot.
Task<std::optional<int>> try_peer(ClientSocket& client, const HttpService& service,
                                  const HttpRequest& request, const ApiResult<CompletionCall>& call) {
  Peers& peers = service.peers();
  std::optional<EngineRequest> preview;
  std::optional<size_t> peer;
  if (call) {
    preview = preview_of(*call);
    peer = peers.choose(*preview, service.backend()->engine.preview(*preview));
  } else if (is_busy(call.error())) {
    peer = peers.least_loaded();
  }
  if (!peer) co_return std::nullopt;
  co_return co_await answer_from_peer(client, peers, *peer, request, preview ? &*preview : nullptr);
}

Task<int> answer_error(ClientSocket& client, const HttpRequest& request, const ApiError& error) {
  const std::string bytes = to_bytes(error_reply(error), request);
  co_await client.write_all(bytes);
  co_return error.http_status;
}

Task<int> answer_call(ClientSocket& client, const HttpRequest& request, Generation& generation,
                      const HttpService& service, Clock::time_point arrival) {
  const std::unique_ptr<AnswerJson> format = make_format(service, generation.call());
  const CallDeadline deadline(arrival, service.options().limits, generation.call().timeout);
  if (!generation.call().stream)
    co_return co_await answer_whole(client, request, generation, *format, deadline);
  co_return co_await answer_stream(client, request, generation, *format, deadline,
                                   service.options().ping_interval);
}

}  // namespace

Task<int> answer_completion(ClientSocket& client, const HttpService& service, HttpRequest& request,
                            size_t max_early_bytes) {
  const Clock::time_point arrival = Clock::now();
  const ApiResult<CompletionCall> call = parse(service, request);
  const bool spreads = !request.from_peer && !service.peers().none();
  if (!call && !(spreads && is_busy(call.error())))
    co_return co_await answer_error(client, request, call.error());
  if (spreads) client.start_watch(max_early_bytes);
  std::optional<int> status;
  if (spreads) status = co_await try_peer(client, service, request, call);
  std::optional<ApiError> refusal;
  if (!status && !call) refusal = call.error();
  if (!status && call) {
    ApiResult<std::unique_ptr<Generation>> started = Generation::start(
        service.backend()->engine, *service.backend()->rules.tokenizer, *call, client.waker());
    if (started) {
      const std::unique_ptr<Generation> generation = *std::move(started);
      if (!spreads) client.start_watch(max_early_bytes);
      status = co_await answer_call(client, request, *generation, service, arrival);
    } else {
      refusal = started.error();
      const ApiResult<CompletionCall> refused = *refusal;
      if (spreads && is_busy(*refusal)) status = co_await try_peer(client, service, request, refused);
    }
  }
  if (!status) status = co_await answer_error(client, request, *refusal);
  if (client.gone()) log_debug("client_gone", "request_id={}", request.request_id);
  co_await client.stop_watch();
  co_return *status;
}

}  // namespace guildhall
