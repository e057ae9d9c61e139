#include "router/http/upstream.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <vector>

namespace guildhall {
namespace {

namespace asio = boost::asio;
constexpr auto kAwaitTuple = asio::as_tuple(asio::use_awaitable);

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return out;
}

}  // namespace

std::optional<UpstreamHead> parse_upstream_head(std::string_view head) {
  if (!head.starts_with("HTTP/1.") || head.size() < 12 || head[8] != ' ') return std::nullopt;
  const auto status = number<int>(head.substr(9, 3));
  if (!status) return std::nullopt;
  UpstreamHead parsed{.status = *status};
  size_t at = head.find("\r\n");
  while (at != head.npos) {
    const size_t begin = at + 2;
    at = head.find("\r\n", begin);
    const std::string_view line = head.substr(begin, at == head.npos ? at : at - begin);
    const size_t colon = line.find(':');
    if (colon == line.npos) continue;
    std::string_view value = line.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
    const std::string name = lower(line.substr(0, colon));
    if (name == "content-type") parsed.content_type = value;
    if (name == "content-length") parsed.content_length = number<size_t>(value);
  }
  return parsed;
}

asio::awaitable<bool> Upstream::send(HostPort peer, std::string request, std::chrono::milliseconds timeout) {
  close_after(timeout);
  const bool sent = co_await connect_and_write(std::move(peer), std::move(request));
  deadline_.cancel();
  co_return sent;
}

asio::awaitable<bool> Upstream::connect_and_write(HostPort peer, std::string request) {
  auto [no_name, found] = co_await resolver_.async_resolve(peer.host, std::to_string(peer.port), kAwaitTuple);
  if (no_name) co_return false;
  auto [no_peer, endpoint] = co_await asio::async_connect(socket_, found, kAwaitTuple);
  if (no_peer) co_return false;
  boost::system::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  auto [failed, count] = co_await asio::async_write(socket_, asio::buffer(request), kAwaitTuple);
  co_return !failed && count == request.size();
}

asio::awaitable<size_t> Upstream::read_some(char* data, size_t size) {
  auto [error, count] = co_await socket_.async_read_some(asio::buffer(data, size), kAwaitTuple);
  co_return error ? 0 : count;
}

asio::awaitable<std::string> Upstream::ask(HostPort peer, std::string request,
                                           std::chrono::milliseconds timeout, size_t most_bytes) {
  close_after(timeout);
  std::string answer;
  if (co_await connect_and_write(std::move(peer), std::move(request))) {
    std::vector<char> chunk(16 << 10);
    while (answer.size() < most_bytes) {
      const size_t count = co_await read_some(chunk.data(), chunk.size());
      if (count == 0) break;
      answer.append(chunk.data(), count);
    }
  }
  deadline_.cancel();
  close();
  co_return answer;
}

void Upstream::close_after(std::chrono::milliseconds timeout) {
  deadline_.expires_after(timeout);
  deadline_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    if (const auto self = weak.lock(); self && !error) self->close();
  });
}

void Upstream::close() {
  boost::system::error_code ignored;
  resolver_.cancel();
  socket_.close(ignored);
}

}  // namespace guildhall
