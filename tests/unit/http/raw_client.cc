#include "tests/unit/http/raw_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace guildhall {

RawClient::RawClient(uint16_t port, int receive_buffer_bytes) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
  timeval patience{20, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (receive_buffer_bytes > 0)
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    throw std::runtime_error(fmt::format("cannot connect to port {}", port));
}

RawClient::~RawClient() { close(); }

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

void RawClient::shutdown_write() { ::shutdown(fd_, SHUT_WR); }

void RawClient::reset() {
  linger hard{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close();
}

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

bool RawClient::fill() {
  char chunk[65536];
  ssize_t count = ::recv(fd_, chunk, sizeof chunk, 0);
  if (count <= 0) return false;
  buffer_.append(chunk, static_cast<size_t>(count));
  return true;
}

std::optional<std::string> RawClient::read_line() {
  size_t end;
  while ((end = buffer_.find("\r\n")) == std::string::npos)
    if (!fill()) return std::nullopt;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

std::string RawClient::read_exactly(size_t size) {
  while (buffer_.size() < size && fill()) {
  }
  std::string bytes = buffer_.substr(0, size);
  buffer_.erase(0, bytes.size());
  return bytes;
}

std::optional<std::string> RawClient::read_chunk() {
  std::optional<std::string> size = read_line();
  if (!size || size->empty()) return std::nullopt;
  std::string chunk = read_exactly(std::stoul(*size, nullptr, 16));
  read_exactly(2);
  if (chunk.empty()) return std::nullopt;
  return chunk;
}

RawReply RawClient::read_head() {
  RawReply reply;
  std::optional<std::string> line = read_line();
  if (!line || line->size() < 12) return reply;
  reply.status = std::stoi(line->substr(9, 3));
  while ((line = read_line()) && !line->empty()) {
    size_t colon = line->find(": ");
    std::string name = line->substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = line->substr(colon + 2);
  }
  return reply;
}

RawReply RawClient::read_reply(bool to_head) {
  RawReply reply = read_head();
  if (to_head || reply.status == 100 || reply.status == 204) return reply;
  if (reply.headers.count("content-length")) {
    reply.body = read_exactly(std::stoul(reply.headers["content-length"]));
  } else if (reply.headers.count("transfer-encoding")) {
    while (auto chunk = read_chunk()) reply.body += *chunk;
  } else if (reply.status != 0) {
    reply.body = read_to_end();
  }
  return reply;
}

std::optional<std::string> RawClient::read_event() {
  size_t end;
  while ((end = events_.find("\n\n")) == std::string::npos) {
    std::optional<std::string> chunk = read_chunk();
    if (!chunk) return std::nullopt;
    events_ += *chunk;
  }
  std::string event = events_.substr(0, end);
  events_.erase(0, end + 2);
  return event;
}

std::string RawClient::read_to_end() {
  while (fill()) {
  }
  return std::exchange(buffer_, {});
}

bool RawClient::at_end() {
  char byte;
  return buffer_.empty() && ::recv(fd_, &byte, 1, 0) <= 0 && errno != EAGAIN;
}

RawReply RawClient::get(std::string_view path) {
  send(fmt::format("GET {} HTTP/1.1\r\nhost: test\r\n\r\n", path));
  return read_reply();
}

RawReply RawClient::post(std::string_view path, std::string_view body) {
  send(post_bytes(path, body));
  return read_reply();
}

std::string post_bytes(std::string_view path, std::string_view body, std::string_view more_headers) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n{}content-length: {}\r\n\r\n{}",
      path, more_headers, body.size(), body);
}

}  // namespace guildhall
