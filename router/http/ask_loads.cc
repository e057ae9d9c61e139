#include "router/http/ask_loads.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <memory>

#include "router/http/upstream.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kAnswerLimit{2000};
constexpr size_t kMaxHeadBytes = 64 << 10;

// What the answers come together in.
struct Gathering {
  Gathering(const asio::any_io_executor& executor, LoadsQuestion asked)
      : question(std::move(asked)), all_here(executor) {
    for (const PeerOptions::Peer& router : question.routers)
      answers.push_back({router.name, Status{Code::unavailable, "no answer"}});
    num_awaited = answers.size();
    all_here.expires_at(asio::steady_timer::time_point::max());
  }

  const LoadsQuestion question;
  asio::steady_timer all_here;  // cancelled by the last one
  std::vector<RouterAnswer> answers;
  size_t num_awaited = 0;
};

Result<RouterLoads> read_answer(const std::string& answer, const LoadsQuestion& question) {
  const size_t end = answer.find("\r\n\r\n");
  if (end == answer.npos) return Status{Code::unavailable, "no answer"};
  const auto head = parse_upstream_head(std::string_view(answer).substr(0, end));
  if (!head) return Status{Code::data_loss, "no HTTP answer"};
  if (head->status != 200) return Status{Code::unavailable, fmt::format("answered {}", head->status)};
  const std::string_view body = std::string_view(answer).substr(end + 4);
  if (head->content_length && body.size() != *head->content_length)
    return Status{Code::data_loss, "its answer broke off"};
  return read_loads(body, question.shape, question.num_workers);
}

asio::awaitable<void> ask(std::shared_ptr<Gathering> gathering, size_t idx) {
  const LoadsQuestion& question = gathering->question;
  const HostPort& address = question.routers[idx].address;
  std::string request =
      fmt::format("GET /v1/cluster/experts?format=protobuf HTTP/1.0\r\nhost: {}\r\n", to_string(address));
  if (!question.authorization.empty())
    request += fmt::format("authorization: {}\r\n", question.authorization);
  const auto upstream = std::make_shared<Upstream>(co_await asio::this_coro::executor);
  const std::string answer =
      co_await upstream->ask(address, request + "\r\n", kAnswerLimit, kMaxLoadsBytes + kMaxHeadBytes);
  gathering->answers[idx].loads = read_answer(answer, question);
  if (--gathering->num_awaited == 0) gathering->all_here.cancel();
}

}  // namespace

asio::awaitable<std::vector<RouterAnswer>> ask_loads(LoadsQuestion question) {
  const auto executor = co_await asio::this_coro::executor;
  const auto gathering = std::make_shared<Gathering>(executor, std::move(question));
  for (size_t i = 0; i < gathering->answers.size(); ++i)
    asio::co_spawn(executor, ask(gathering, i), asio::detached);
  while (gathering->num_awaited > 0)
    co_await gathering->all_here.async_wait(asio::as_tuple(asio::use_awaitable));
  co_return std::move(gathering->answers);
}

}  // namespace guildhall
