// server_fixture.h: the real server on a free loopback port, with a fake engine and the tiny tokenizer.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <mutex>

#include "router/http/server.h"
#include "tests/unit/http/fake_engine.h"
#include "tests/unit/http/raw_client.h"
#include "tests/unit/http/tiny_tokenizer.h"

namespace guildhall {

class FakeStatus : public StatusSource {
 public:
  ServingStatus serving_status() const override;
  void set(ServingStatus status);

 private:
  mutable std::mutex mutex_;
  ServingStatus status_;
};

class HttpServerTest : public testing::Test {
 protected:
  HttpServerTest();
  void start();                                             // listening, not attached
  void serve(const ChatTemplate* chat_template = nullptr);  // attached and ready
  RawReply complete(std::string_view body);                 // one POST /v1/completions on a new connection
  uint16_t port() const { return server_->port(); }

  HttpServerOptions options_;  // change before start()
  FakeStatus status_;
  FakeEngine engine_;
  std::unique_ptr<HttpServer> server_;  // destroyed first
};

inline constexpr std::string_view kCompletions = "/v1/completions";

}  // namespace guildhall
