#include "router/http/peer_reply.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "router/http/upstream.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kConnectLimit{1000};  // to reach the peer and hand the request over
constexpr std::chrono::milliseconds kLook{500};  // between looks at whether a quiet peer still answers
constexpr int kSilentLooks = 10;                 // in a row, until a quiet peer is given up
constexpr size_t kMaxHeadBytes = 64 << 10;
constexpr size_t kMaxBuffered = 256 << 10;  // beyond it the peer waits for our client
constexpr std::string_view kEventEnd = "\n\n", kDone = "data: [DONE]\n\n";

std::string forwarded(const HttpRequest& request, const HostPort& peer) {
  std::string out = fmt::format(
      "POST {} HTTP/1.0\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: "
      "{}\r\n{}: 1\r\n",
      request.path, to_string(peer), request.body.size(), request.request_id, kHopHeader);
  if (!request.authorization.empty()) out += fmt::format("authorization: {}\r\n", request.authorization);
  return out + "\r\n" + request.body;
}

// What comes from the peer, until the client's side takes it. Both sides are on one strand.
struct Inflow {
  explicit Inflow(ClientSocket& client)
      : client(client.shared_from_this()),
        upstream(std::make_shared<Upstream>(client.stream().get_executor())),
        room(client.stream().get_executor()) {}

  // Ends the reading side; it may take a moment.
  void abandon() {
    abandoned = true;
    upstream->close();
    room.cancel();
  }
  std::string take(size_t count) {
    std::string taken = bytes.substr(0, count);
    bytes.erase(0, count);
    room.cancel();
    return taken;
  }

  std::shared_ptr<ClientSocket> client;
  std::shared_ptr<Upstream> upstream;
  asio::steady_timer room;  // waits for the client's side to take something
  std::string bytes;
  bool ended = false, abandoned = false;
};

Task<void> fill(std::shared_ptr<Inflow> in, HostPort peer, std::string request) {
  std::vector<char> chunk(16 << 10);
  size_t count = co_await in->upstream->send(std::move(peer), std::move(request), kConnectLimit) ? 1 : 0;
  while (count > 0 && !in->abandoned) {
    count = co_await in->upstream->read_some(chunk.data(), chunk.size());
    if (in->abandoned) co_return;
    in->bytes.append(chunk.data(), count);
    in->client->notify();
    while (in->bytes.size() > kMaxBuffered && !in->abandoned) {
      in->room.expires_after(std::chrono::hours(1));
      co_await in->room.async_wait(asio::as_tuple(asio::use_awaitable));
    }
  }
  if (in->abandoned) co_return;
  in->ended = true;
  in->client->notify();
}

// The client's side of one forwarded request.
class PeerReply {
 public:
  PeerReply(ClientSocket& client, Peers& peers, size_t peer_idx, const HttpRequest& request)
      : client_(client),
        peers_(peers),
        peer_idx_(peer_idx),
        request_(request),
        in_(std::make_shared<Inflow>(client)) {}
  ~PeerReply() { in_->abandon(); }

  Task<std::optional<int>> run() {
    const HostPort& peer = peers_.peer(peer_idx_).address;
    asio::co_spawn(client_.stream().get_executor(), fill(in_, peer, forwarded(request_, peer)),
                   asio::detached);
    size_t end = 0;
    while ((end = in_->bytes.find("\r\n\r\n")) == std::string::npos)
      if (in_->bytes.size() > kMaxHeadBytes || !co_await more()) co_return failed("no answer");
    const std::optional<UpstreamHead> head = parse_upstream_head(in_->take(end + 4));
    if (!head) co_return failed("no HTTP answer");
    // Busy, broken, or with other keys than ours: we may do better.
    if (head->status >= 500 || head->status == 429 || head->status == 401)
      co_return failed(fmt::format("answered {}", head->status));
    if (head->content_type.starts_with("text/event-stream")) co_return co_await relay_stream();
    co_return co_await relay_whole(*head);
  }

 private:
  // Waits until more has come. False: nothing will, or the client left.
  Task<bool> more() {
    const size_t before = in_->bytes.size();
    for (int silent = 0; in_->bytes.size() == before;) {
      if (in_->ended || client_.gone() || silent > kSilentLooks) co_return false;
      if (!co_await client_.wait(kLook)) silent = peers_.answers(peer_idx_) ? 0 : silent + 1;
    }
    co_return !client_.gone();
  }

  // Nobody may be there to answer any more.
  std::optional<int> failed(const std::string& why) {
    if (client_.gone()) return kClientLeft;
    peers_.record_failure(peer_idx_, why);
    return std::nullopt;
  }

  Task<std::optional<int>> relay_whole(const UpstreamHead& head) {
    const size_t wanted = head.content_length.value_or(std::string::npos);
    std::string body;
    while (body.size() < wanted) {
      body += in_->take(in_->bytes.size());
      if (body.size() < wanted && !co_await more()) break;
    }
    const bool whole = head.content_length ? body.size() >= wanted : in_->ended;
    if (!whole || client_.gone()) co_return failed("its answer broke off");
    HttpReply reply;
    reply.status = head.status;
    reply.body = std::move(body);
    const std::string bytes = to_bytes(reply, request_);
    co_await client_.write_all(bytes);
    co_return head.status;
  }

  // Whole events only, so that an error can follow where the peer's stream breaks off.
  Task<std::optional<int>> relay_stream() {
    bool head_sent = false, done = false;
    for (bool open = true; open;) {
      const size_t end = in_->bytes.rfind(kEventEnd);
      if (end == std::string::npos) {
        open = co_await more();
        continue;
      }
      const std::string events = in_->take(end + kEventEnd.size());
      done = events.ends_with(kDone);
      std::string bytes = std::exchange(head_sent, true) ? "" : stream_head(request_);
      bytes += stream_piece(request_, events);
      if (done) bytes += stream_end(request_);
      if (!co_await client_.write_all(bytes)) co_return kClientLeft;
      if (done) co_return 200;
    }
    const std::optional<int> nobody = failed("its stream broke off");
    if (nobody || !head_sent) co_return nobody;
    const ApiError error{503, "the router that served this request was lost; try again", "", "peer_lost"};
    std::string bytes = stream_piece(request_, fmt::format("data: {}\n\n{}", error_body(error), kDone));
    bytes += stream_end(request_);
    co_await client_.write_all(bytes);
    co_return 200;
  }

  ClientSocket& client_;
  Peers& peers_;
  const size_t peer_idx_;
  const HttpRequest& request_;
  std::shared_ptr<Inflow> in_;
};

}  // namespace

Task<std::optional<int>> answer_from_peer(ClientSocket& client, Peers& peers, size_t peer_idx,
                                          const HttpRequest& request, const EngineRequest* engine_request) {
  peers.record_sent(peer_idx, engine_request);
  PeerReply reply(client, peers, peer_idx, request);
  co_return co_await reply.run();
}

}  // namespace guildhall
