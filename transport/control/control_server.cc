#include "transport/control/control_server.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <map>

#include "base/log.h"
#include "proto/host_port.h"
#include "transport/control/link_impl.h"

namespace guildhall {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptPause{100};  // after a failed accept, such as too many open files

std::string to_text(const tcp::endpoint& endpoint) {
  return to_string(HostPort{endpoint.address().to_string(), endpoint.port()});
}

}  // namespace

struct ControlServer::Impl : std::enable_shared_from_this<ControlServer::Impl> {
  Impl(asio::io_context& io, ServerOptions options, LinkHandlers handlers)
      : io(io), acceptor(io), pause(io), options(std::move(options)), handlers(std::move(handlers)) {}

  static asio::awaitable<void> accept_loop(std::shared_ptr<Impl> self) {
    while (!self->is_stopped) {
      auto [error, socket] = co_await self->acceptor.async_accept(asio::as_tuple(asio::use_awaitable));
      if (self->is_stopped) co_return;
      if (error) {
        log_warn("control_accept_failed", "{} error={}", self->options.name, error.message());
        self->pause.expires_after(kAcceptPause);
        co_await self->pause.async_wait(asio::as_tuple(asio::use_awaitable));
        continue;
      }
      self->take(std::move(socket));
    }
  }

  void take(tcp::socket socket) {
    error_code error;
    const tcp::endpoint remote = socket.remote_endpoint(error);
    if (error) return;  // gone already
    const std::string peer = fmt::format("peer={}", to_text(remote));
    if (links.size() >= options.max_links) return refuse(std::move(socket), peer);
    auto link =
        std::make_shared<LinkImpl>(std::move(socket), LinkImpl::Side::accepted, peer, options.link, handlers);
    links.emplace(link.get(), link);
    link->start([weak = weak_from_this(), key = link.get()] {
      if (const auto self = weak.lock()) self->links.erase(key);
    });
  }

  // A new connection's send buffer takes this small message at once.
  void refuse(tcp::socket socket, const std::string& peer) {
    const Status why{Code::resource_exhausted, fmt::format("{} has its {} control links; close one first",
                                                           options.name, options.max_links)};
    log_warn("control_link_refused", "{}: {}", peer, why.message);
    error_code ignored;  // the peer is dropped either way
    const auto bytes = encode_envelope(make_error(why, 0));
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(*bytes), ignored);
    socket.shutdown(tcp::socket::shutdown_send, ignored);
  }

  asio::io_context& io;
  tcp::acceptor acceptor;
  asio::steady_timer pause;
  const ServerOptions options;
  const LinkHandlers handlers;
  std::map<LinkImpl*, std::shared_ptr<LinkImpl>> links;
  std::string local;
  bool is_stopped = false;
};

Result<std::unique_ptr<ControlServer>> ControlServer::listen(asio::io_context& io, std::string_view address,
                                                             ServerOptions options, LinkHandlers handlers) {
  const auto failed = [&](Code code, std::string_view why) {
    return Status{code, fmt::format("{}: cannot listen on {}: {}", options.name, address, why)};
  };
  GH_ASSIGN(const HostPort wanted, parse_host_port(address));
  error_code error;
  const auto found =
      tcp::resolver(io).resolve(wanted.host, std::to_string(wanted.port), tcp::resolver::passive, error);
  if (error || found.empty())
    return failed(Code::not_found, fmt::format("{}; use a name or address of this host", error.message()));
  const tcp::endpoint endpoint = found.begin()->endpoint();
  const auto impl = std::make_shared<Impl>(io, options, std::move(handlers));
  impl->acceptor.open(endpoint.protocol(), error);
  if (!error) impl->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) impl->acceptor.bind(endpoint, error);
  if (!error) impl->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error == asio::error::address_in_use)
    return failed(Code::unavailable,
                  "the port is in use; stop the process that has it or choose another port");
  if (error == boost::system::errc::address_not_available)
    return failed(Code::not_found, "this host has no such address; use one of its own, or 0.0.0.0 for all");
  if (error) return failed(Code::unavailable, error.message());
  impl->local = to_text(impl->acceptor.local_endpoint(error));
  asio::co_spawn(io, Impl::accept_loop(impl), asio::detached);
  return std::unique_ptr<ControlServer>(new ControlServer(impl));
}

ControlServer::ControlServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlServer::~ControlServer() {
  impl_->is_stopped = true;
  error_code ignored;  // closing an open acceptor cannot fail in a way that matters here
  impl_->acceptor.close(ignored);
  impl_->pause.cancel();
  for (auto& [key, link] : std::exchange(impl_->links, {})) link->abandon();
}

std::string ControlServer::local_address() const { return impl_->local; }
size_t ControlServer::num_links() const { return impl_->links.size(); }

}  // namespace guildhall
