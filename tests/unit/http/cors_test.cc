// cors_test.cc: what a server says to browsers: which pages may use it, before and with every kind of answer,
// and that no page talks its way in.
#include "router/http/cors.h"

#include <fmt/format.h>

#include "tests/unit/http/server_fixture.h"

namespace guildhall {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

constexpr std::string_view kPage = "https://chat.example.org";

class Cors : public HttpServerTest {
 protected:
  void serve_pages(std::vector<std::string> origins) {
    options_.cors_origins = std::move(origins);
    serve();
  }
  RawReply ask(std::string_view method, std::string_view path, std::string_view headers,
               std::string_view body = "") {
    RawClient client(port());
    client.send(fmt::format("{} {} HTTP/1.1\r\nhost: x\r\n{}{}\r\n{}", method, path, headers,
                            body.empty() ? "" : fmt::format("content-length: {}\r\n", body.size()), body));
    return client.read_reply();
  }
  RawReply preflight(std::string_view origin, std::string_view names = "authorization, content-type",
                     std::string_view path = kCompletions) {
    return ask("OPTIONS", path,
               fmt::format("origin: {}\r\naccess-control-request-method: POST\r\n"
                           "access-control-request-headers: {}\r\n",
                           origin, names));
  }
};

auto may_be_read_by(std::string_view origin) {
  return AllOf(Contains(Pair("access-control-allow-origin", std::string(origin))),
               Contains(Pair("access-control-expose-headers", HasSubstr("x-request-id"))));
}
const auto kKeptOut = Not(Contains(Key("access-control-allow-origin")));

TEST_F(Cors, APageOfTheListAsksAndMaySend) {
  serve_pages({"http://localhost:5173", std::string(kPage)});
  const RawReply reply = preflight(kPage);
  EXPECT_EQ(reply.status, 204);
  EXPECT_THAT(reply.headers, may_be_read_by(kPage));
  EXPECT_EQ(reply.headers.at("access-control-allow-methods"), "POST, OPTIONS");
  EXPECT_EQ(reply.headers.at("access-control-allow-headers"), "authorization, content-type");
  EXPECT_THAT(reply.headers, Contains(Key("access-control-max-age")));
  EXPECT_THAT(reply.headers, Contains(Key("vary")));
  EXPECT_THAT(preflight("http://localhost:5173").headers, may_be_read_by("http://localhost:5173"));
}

TEST_F(Cors, EveryKindOfAnswerMayBeRead) {
  options_.max_body_bytes = 1024;
  serve_pages({std::string(kPage)});
  const std::string from = fmt::format("origin: {}\r\n", kPage);
  const std::string plain = R"({"prompt": "a", "max_tokens": 2})";
  const std::string stream = R"({"prompt": "a", "max_tokens": 2, "stream": true})";
  for (const auto& [reply, status] : std::initializer_list<std::pair<RawReply, int>>{
           {ask("GET", "/v1/models", from), 200},
           {ask("POST", kCompletions, from, plain), 200},
           {ask("POST", kCompletions, from, stream), 200},
           {ask("POST", kCompletions, from, R"({"prompt": 7})"), 400},
           {ask("POST", kCompletions, from, std::string(2000, ' ')), 413},
           {ask("GET", "/nothing", from), 404},
           {ask("GET", kCompletions, from), 405},
           {ask("POST", "/tokenize", from + "content-length: -1\r\n"), 400}}) {
    EXPECT_EQ(reply.status, status);
    EXPECT_THAT(reply.headers, may_be_read_by(kPage)) << status;
    EXPECT_EQ(reply.headers.at("vary"), "origin") << status;
  }
}

TEST_F(Cors, NoOtherPageIsLetIn) {
  serve_pages({std::string(kPage), "http://10.0.0.1:80"});
  for (const std::string& origin :
       {std::string("null"), std::string("https://chat.example.org.evil.com"),
        std::string("https://evil.com/https://chat.example.org"), std::string("http://chat.example.org"),
        std::string("https://chat.example.org:8443"), std::string("https://chat.example.org/"),
        std::string("https://CHAT.example.org"), std::string("https://chat.example.or"), std::string("*"),
        std::string("https://chat.example.org, https://evil.com"), std::string(), std::string(3000, 'x')}) {
    const RawReply refused = preflight(origin);
    EXPECT_EQ(refused.status, 403) << origin;
    EXPECT_EQ(refused.error()["code"], "origin_not_allowed") << origin;
    EXPECT_EQ(refused.error()["type"], "permission_error") << origin;
    EXPECT_THAT(refused.headers, kKeptOut) << origin;
    EXPECT_THAT(refused.headers, Not(Contains(Key("access-control-allow-headers")))) << origin;
    const RawReply read = ask("GET", "/v1/models", fmt::format("origin: {}\r\n", origin));
    EXPECT_EQ(read.status, 200);
    EXPECT_THAT(read.headers, kKeptOut) << origin;
    EXPECT_THAT(read.headers, Contains(Pair("vary", "origin")));
  }
}

TEST_F(Cors, ASecondOriginChangesNothing) {
  serve_pages({std::string(kPage)});
  const RawReply reply =
      ask("GET", "/v1/models", fmt::format("origin: https://evil.com\r\norigin: {}\r\n", kPage));
  EXPECT_THAT(reply.headers, kKeptOut);
}

TEST_F(Cors, HeaderNamesThatAreNoneAreNotRepeated) {
  serve_pages({std::string(kPage)});
  for (const std::string& names : {std::string("a: b"), std::string("x\tset-cookie"), std::string("a;b"),
                                   std::string("<script>"), std::string(3000, 'a'), std::string()}) {
    const RawReply reply = preflight(kPage, names);
    EXPECT_EQ(reply.status, 204) << names;
    EXPECT_THAT(reply.headers, Not(Contains(Key("access-control-allow-headers")))) << names;
  }
}

TEST_F(Cors, AStarIsForAll) {
  serve_pages({"*"});
  for (const std::string_view origin : {kPage, std::string_view("null")}) {
    EXPECT_EQ(preflight(origin).status, 204);
    EXPECT_THAT(preflight(origin).headers, may_be_read_by("*"));
  }
  EXPECT_THAT(ask("GET", "/v1/models", "").headers, may_be_read_by("*"));
}

TEST_F(Cors, WithoutAListNoPageIsServed) {
  serve_pages({});
  EXPECT_EQ(preflight(kPage).status, 403);
  const RawReply reply = ask("GET", "/v1/models", fmt::format("origin: {}\r\n", kPage));
  EXPECT_EQ(reply.status, 200);
  EXPECT_THAT(reply.headers, kKeptOut);
  EXPECT_THAT(reply.headers, Not(Contains(Key("vary"))));
}

TEST_F(Cors, BrowsersAskWithoutAKey) {
  options_.api_keys = ApiKeys::parse("search sk-search-0123456789", "keys.txt").value();
  serve_pages({std::string(kPage)});
  EXPECT_EQ(preflight(kPage).status, 204);
  EXPECT_EQ(ask("OPTIONS", kCompletions, "").status, 204);
  EXPECT_EQ(ask("OPTIONS", kCompletions, "", "no question has a body").status, 401);
  const RawReply refused =
      ask("POST", kCompletions, fmt::format("origin: {}\r\n", kPage), R"({"prompt": "a"})");
  EXPECT_EQ(refused.status, 401);
  EXPECT_THAT(refused.headers, may_be_read_by(kPage));
}

}  // namespace
}  // namespace guildhall
