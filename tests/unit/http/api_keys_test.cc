// api_keys_test.cc: the file of keys, and what a server that has one answers.
#include "router/http/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kFile =
    "# who may come in\n"
    "search   sk-search-0123456789\n"
    "\n"
    "batch\tsk-batch-0123456789  5 # at night\r\n"
    "search sk-search-abcdefghij -3";

std::string refusal(std::string_view text) {
  const auto keys = ApiKeys::parse(text, "keys.txt");
  EXPECT_TRUE(keys.has_error());
  return keys.has_error() ? keys.error().message : "";
}

TEST(ApiKeys, AreFoundByTheirHeader) {
  const auto keys = ApiKeys::parse(kFile, "keys.txt").value();
  EXPECT_EQ(keys->size(), 3u);
  ASSERT_NE(keys->find("Bearer sk-batch-0123456789"), nullptr);
  EXPECT_EQ(keys->find("Bearer sk-batch-0123456789")->name, "batch");
  EXPECT_EQ(keys->find("bearer   sk-batch-0123456789 ")->best_priority, 5);
  EXPECT_EQ(keys->find("BEARER sk-search-abcdefghij")->best_priority, -3);
  for (const char* none : {"", "Bearer", "Bearer ", "sk-batch-0123456789", "Basic sk-batch-0123456789",
                           "Bearer sk-batch-012345678", "Bearer sk-batch-0123456789 x", "Bearer batch"})
    EXPECT_EQ(keys->find(none), nullptr) << none;
}

TEST(ApiKeys, ErrorsNameTheLineAndNotTheKey) {
  EXPECT_THAT(refusal("a sk-0123456789abcdef\nb"), HasSubstr("keys.txt:2: a line is NAME KEY"));
  EXPECT_THAT(refusal("a secret"), HasSubstr("keys.txt:1: the key has 6 characters; the least is 16"));
  EXPECT_THAT(refusal("a secret"), Not(HasSubstr("secret")));
  EXPECT_THAT(refusal("a sk-0123456789abcdef\nb sk-0123456789abcdef"),
              HasSubstr("keys.txt:2: the key stands"));
  EXPECT_THAT(refusal("a sk-0123456789abcdef high"), HasSubstr("from -1000 to 1000"));
  EXPECT_THAT(refusal("a sk-0123456789abcdef 1001"), HasSubstr("from -1000 to 1000"));
  EXPECT_THAT(refusal("# nobody\n"), HasSubstr("keys.txt has no keys"));
  EXPECT_THAT(ApiKeys::read("/nowhere/keys.txt").error().message, HasSubstr("cannot read /nowhere/keys.txt"));
}

class ServerWithKeys : public HttpServerTest {
 protected:
  ServerWithKeys() { options_.api_keys = ApiKeys::parse(kFile, "keys.txt").value(); }

  RawReply post(std::string_view headers, std::string_view body) {
    RawClient client(port());
    client.send("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: " + std::to_string(body.size()) +
                "\r\n" + std::string(headers) + "\r\n" + std::string(body));
    return client.read_reply();
  }
};

TEST_F(ServerWithKeys, AsksForOneWhereTheModelIsUsed) {
  serve();
  const RawReply missing = post("", R"({"prompt": "hello"})");
  EXPECT_EQ(missing.status, 401);
  EXPECT_EQ(missing.headers.at("www-authenticate"), "Bearer");
  EXPECT_EQ(missing.error().at("code"), "missing_api_key");
  EXPECT_EQ(missing.error().at("type"), "authentication_error");
  const RawReply wrong = post("authorization: Bearer sk-search-wrong-wrong\r\n", R"({"prompt": "hello"})");
  EXPECT_EQ(wrong.status, 401);
  EXPECT_EQ(wrong.error().at("code"), "invalid_api_key");
  EXPECT_THAT(wrong.body, Not(HasSubstr("sk-search")));
  EXPECT_EQ(RawClient(port()).get("/v1/models").status, 401);
  EXPECT_EQ(RawClient(port()).get("/nothing").status, 401);
  for (const char* open : {"/live", "/health", "/metrics"})
    EXPECT_EQ(RawClient(port()).get(open).status, 200);
}

TEST_F(ServerWithKeys, TheTenantTakesItsTurnAtNoBetterPriorityThanItsOwn) {
  serve();
  const RawReply reply = post("authorization: Bearer sk-batch-0123456789\r\n",
                              R"({"prompt": "hello", "priority": -7, "cache_salt": "x"})");
  EXPECT_EQ(reply.status, 200) << reply.body;
  const EngineRequest batch = engine_.requests().back();
  EXPECT_EQ(batch.tenant, "batch");
  EXPECT_EQ(batch.priority, 5);
  post("authorization: Bearer sk-search-0123456789\r\n",
       R"({"prompt": "hello", "priority": 9, "cache_salt": "x"})");
  const EngineRequest search = engine_.requests().back();
  EXPECT_EQ(search.priority, 9);
  EXPECT_NE(search.cache_salt, batch.cache_salt);
}

TEST_F(HttpServerTest, WithoutKeysAnyPriorityMayBeAskedFor) {
  serve();
  EXPECT_EQ(complete(R"({"prompt": "hello", "priority": -7})").status, 200);
  EXPECT_EQ(engine_.requests().back().priority, -7);
  EXPECT_EQ(complete(R"({"prompt": "hello", "priority": 1001})").status, 400);
}

}  // namespace
}  // namespace guildhall
