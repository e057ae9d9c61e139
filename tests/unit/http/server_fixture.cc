#include "tests/unit/http/server_fixture.h"

namespace guildhall {

ServingStatus FakeStatus::serving_status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

void FakeStatus::set(ServingStatus status) {
  std::lock_guard lock(mutex_);
  status_ = std::move(status);
}

HttpServerTest::HttpServerTest() {
  options_.listen = "127.0.0.1:0";
  options_.model_name = "org/tiny";
  options_.max_model_len = 1024;
}

void HttpServerTest::start() { server_ = HttpServer::start(options_, status_).value(); }

void HttpServerTest::serve(const ChatTemplate* chat_template) {
  start();
  server_->attach(engine_, tiny_tokenizer(), {}, chat_template);
  ServingStatus ready;
  ready.state = ServingState::ready;
  status_.set(ready);
}

RawReply HttpServerTest::complete(std::string_view body) {
  return RawClient(port()).post(kCompletions, body);
}

}  // namespace guildhall
