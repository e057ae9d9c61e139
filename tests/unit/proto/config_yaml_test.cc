// The reader: what is written arrives, what is not written is its default, and each mistake is named with
// file, line and key.
#include "proto/config_yaml.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "proto/config.pb.h"
#include "proto/yaml_tree.h"

namespace guildhall {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kMinimal =
    "model: {path: /models/demo}\n"
    "experts:\n"
    "  workers:\n"
    "    - {name: w0, address: \"10.0.0.11:7000\"}\n";

Result<config::Config> parse(const std::string& text) { return parse_config(text, "g.yaml"); }
Result<config::Config> parse_more(const std::string& text) { return parse(kMinimal + text); }

std::string error_of(const std::string& text) {
  const auto config = parse(text);
  return config ? "accepted" : config.error().message;
}
// Of a section after the minimal file's four lines: `text` begins at line 5.
std::string error_more(const std::string& text) { return error_of(kMinimal + text); }

TEST(ConfigYaml, TextThatIsNotUtf8IsRefusedWithItsLine) {
  EXPECT_THAT(error_of("model:\n  path: /m\xa6\n"), HasSubstr(":2: not valid UTF-8"));
}

TEST(ConfigYaml, DefaultsAreFilledIn) {
  const auto config = parse(kMinimal);
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->model().name(), "demo");
  EXPECT_EQ(config->model().load(), "checkpoint");
  EXPECT_EQ(config->model().max_model_len(), 0);
  EXPECT_EQ(config->router().name(), "r0");
  EXPECT_EQ(config->router().host(), "127.0.0.1");
  EXPECT_EQ(config->router().http().listen(), "127.0.0.1:8000");
  EXPECT_EQ(config->router().http().max_body_bytes(), 8 << 20);
  EXPECT_EQ(config->router().http().idle_timeout_us(), 75'000'000);
  EXPECT_EQ(config->router().kv_cache().block_size(), 16);
  EXPECT_EQ(config->router().kv_cache().memory_bytes(), 1 << 30);
  EXPECT_EQ(config->router().batching().max_sequences(), 64);
  EXPECT_EQ(config->experts().workers(0).host(), "10.0.0.11");
  EXPECT_EQ(config->experts().workers(0).memory_bytes(), 0);
  EXPECT_EQ(config->transport().kind(), "ucx");
  EXPECT_EQ(config->transport().heartbeat_us(), 500'000);
  EXPECT_EQ(config->transport().startup_timeout_us(), 600'000'000);
  EXPECT_EQ(config->balance().policy(), "static");
  EXPECT_EQ(config->log().level(), "info");
  EXPECT_EQ(config->router().batching().micro_batches(), "auto");
  EXPECT_EQ(config->trace().file(), "");
}

TEST(ConfigYaml, WhatIsWrittenArrives) {
  const auto config = parse_more(
      "router:\n"
      "  name: front\n"
      "  http: {listen: '[::1]:0', max_body: 1.5MiB, read_timeout: 2m}\n"
      "  dense: {threads: 3, isa: avx2}\n"
      "  kv_cache: {memory: 65536}\n"
      "transport: {deadline: \"250ms\", ucx: {tls: 'tcp,self'}}\n"
      "log:\n"
      "balance: # nothing but a comment\n");
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->router().name(), "front");
  EXPECT_EQ(config->router().host(), "::1");
  EXPECT_EQ(config->router().http().max_body_bytes(), 3 << 19);
  EXPECT_EQ(config->router().http().read_timeout_us(), 120'000'000);
  EXPECT_EQ(config->router().dense().threads(), 3);
  EXPECT_EQ(config->router().kv_cache().memory_bytes(), 65536);
  EXPECT_EQ(config->transport().deadline_us(), 250'000);
  EXPECT_EQ(config->transport().ucx().tls(), "tcp,self");
  EXPECT_EQ(config->log().level(), "info");
}

TEST(ConfigYaml, OriginsAreAListOfTexts) {
  const auto config =
      parse_more("router: {http: {cors_origins: ['https://a.example', \"http://[::1]:5173\"]}}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  const auto& origins = config->router().http().cors_origins();
  EXPECT_THAT(std::vector(origins.begin(), origins.end()),
              ::testing::ElementsAre("https://a.example", "http://[::1]:5173"));
  EXPECT_EQ(parse(describe_config(*config))->router().http().cors_origins_size(), 2);
  EXPECT_TRUE(parse_more("router: {http: {cors_origins: ['*']}}\n"));
  EXPECT_EQ(parse_more("router: {http: {cors_origins: []}}\n")->router().http().cors_origins_size(), 0);
  EXPECT_EQ(error_more("router:\n  http:\n    cors_origins: 'https://a.example'\n"),
            "g.yaml:7: router.http.cors_origins: must be a list, such as [a, b], not a single value");
  EXPECT_EQ(error_more("router:\n  http:\n    cors_origins: [{}]\n"),
            "g.yaml:7: router.http.cors_origins: must hold texts that are not empty");
  for (const char* origin : {"chat.example.org", "https://a.example/", "https://A.example", "https://",
                             "://a", "https://*.example", "https://a b", "null"})
    EXPECT_THAT(error_more(fmt::format("router:\n  http:\n    cors_origins: ['{}']\n", origin)),
                HasSubstr(fmt::format("g.yaml:7: router.http.cors_origins: '{}' is not an origin", origin)));
}

TEST(ConfigYaml, RoutersOfAListAreReadAndChecked) {
  const auto config = parse_more(
      "routers:\n"
      "  - {name: r0, listen: '10.0.0.1:8000'}\n"
      "  - {name: r1, listen: '0.0.0.0:8000', host: gate, threads: 2}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->routers(0).host(), "10.0.0.1");
  EXPECT_EQ(config->routers(0).threads(), 0);
  EXPECT_EQ(config->routers(1).host(), "gate");
  EXPECT_EQ(config->routers(1).threads(), 2);
  EXPECT_EQ(error_more("routers:\n  - {name: r0, listen: 'a:1'}\n  - name: r0\n    listen: 'a:2'\n"),
            "g.yaml:7: routers[1].name: 'r0' is also the name in routers[0].name");
  EXPECT_EQ(error_more("routers:\n  - {name: r0, listen: 'a:1'}\n  - name: r1\n    listen: 'a:1'\n"),
            "g.yaml:8: routers[1].listen: 'a:1' is also the address in routers[0].listen");
  EXPECT_THAT(error_more("routers:\n  - {name: r0}\n"),
              HasSubstr("g.yaml:6: routers[0].listen: missing; router 'r0' needs the HOST:PORT of its API"));
  EXPECT_THAT(error_more("routers: [{name: r0, listen: 'a:1', kv_cache: {}}]\n"),
              HasSubstr("routers[0].kv_cache: unknown key"));
}

TEST(ConfigYaml, UnknownKeysAreRefusedWithLineAndNearMatch) {
  EXPECT_EQ(error_more("router:\n  kv_cache:\n    blok_size: 16\n"),
            "g.yaml:7: router.kv_cache.blok_size: unknown key (did you mean block_size?)");
  EXPECT_EQ(error_more("rooter: {}\n"), "g.yaml:5: rooter: unknown key (did you mean router?)");
  EXPECT_THAT(error_more("router: {block_size: 16}\n"),
              HasSubstr("router.block_size: unknown key (it belongs in router.kv_cache)"));
  EXPECT_THAT(error_more("transport: {deadline_us: 5}\n"),
              HasSubstr("unknown key (write deadline, with a unit in the value)"));
  EXPECT_THAT(error_more("log: {zzzzzz: 5}\n"), HasSubstr("unknown key (known here: level)"));
  EXPECT_THAT(error_of("experts: {workers: [{nam: w0}]}\n"),
              HasSubstr("g.yaml:1: experts.workers[0].nam: unknown key (did you mean name?)"));
}

TEST(ConfigYaml, DuplicateKeysAreRefused) {
  EXPECT_EQ(error_more("log: {level: info,\n  level: warn}\n"),
            "g.yaml:6: log.level: given twice; it is also on line 5");
  EXPECT_THAT(error_more("model: {path: /b}\n"),
              HasSubstr("g.yaml:5: model: given twice; it is also on line 1"));
}

TEST(ConfigYaml, WrongTypesAreRefused) {
  EXPECT_EQ(error_more("router: {http: {threads: two}}\n"),
            "g.yaml:5: router.http.threads: 'two' is not a whole number");
  EXPECT_THAT(error_more("router: {http: {threads: 1.5}}\n"), HasSubstr("'1.5' is not a whole number"));
  EXPECT_THAT(error_more("router: {http: {threads: '1'}}\n"), HasSubstr("take it out of its quotes"));
  EXPECT_THAT(error_more("router: {http: {threads: [1]}}\n"),
              HasSubstr("must be a single value, not a list"));
  EXPECT_THAT(error_more("router: {http: {threads: }}\n"), HasSubstr("has no value"));
  EXPECT_THAT(error_more("router: {http: {threads: 99999999999999999999}}\n"),
              HasSubstr("is not a whole number"));
  EXPECT_THAT(error_more("router: 5\n"), HasSubstr("router: must be a section of keys, not a single value"));
  EXPECT_THAT(error_more("router: [http]\n"), HasSubstr("must be a section of keys, not a list"));
  EXPECT_THAT(error_more("router: {name: {a: b}}\n"), HasSubstr("must be a single value, not a section"));
  EXPECT_THAT(error_more("router: {name: ''}\n"), HasSubstr("router.name: is empty"));
  EXPECT_THAT(error_more("router: {kv_cache: {memory: lots}}\n"), HasSubstr("'lots' is not a size such as"));
  EXPECT_THAT(error_more("transport: {deadline: 250}\n"), HasSubstr("'250' is not a time such as"));
  EXPECT_THAT(error_of("model: {path: /m}\nexperts: {workers: {name: w0}}\n"),
              HasSubstr("g.yaml:2: experts.workers: must be a list"));
  EXPECT_THAT(error_of("model: {path: /m}\nexperts:\n  workers: [w0]\n"),
              HasSubstr("g.yaml:3: experts.workers[0]: must be a section"));
  EXPECT_THAT(error_of("- a\n- b\n"), HasSubstr("g.yaml:1: the file must be keys and values"));
  EXPECT_THAT(error_of("just text"), HasSubstr("the file must be keys and values"));
}

TEST(ConfigYaml, NumbersOutOfRangeAreRefused) {
  EXPECT_EQ(error_more("router: {kv_cache: {block_size: 0}}\n"),
            "g.yaml:5: router.kv_cache.block_size: 0 is out of range; it must be from 1 to 4096");
  EXPECT_THAT(error_more("router: {kv_cache: {block_size: -16}}\n"), HasSubstr("-16 is out of range"));
  EXPECT_EQ(error_more("router: {kv_cache: {dtype: fp8_e5m2}}\n"),
            "g.yaml:5: router.kv_cache.dtype: 'fp8_e5m2' is not one of: f32 | bf16 | fp8 | int8");
  EXPECT_THAT(error_more("router: {http: {max_connections: 3000000000}}\n"), HasSubstr("out of range"));
  EXPECT_THAT(error_more("router: {kv_cache: {memory: 0}}\n"), HasSubstr("must be from 64KiB to 1024TiB"));
  EXPECT_THAT(error_more("router: {kv_cache: {memory: -1GiB}}\n"), HasSubstr("is not a size"));
  EXPECT_THAT(error_more("transport: {heartbeat: 0ms}\n"), HasSubstr("must be from 1ms to 1m"));
  EXPECT_THAT(error_more("transport: {heartbeat: 5ns}\n"), HasSubstr("out of range"));
  EXPECT_THAT(error_more("router: {dense: {threads: -1}}\n"), HasSubstr("must be from 0 to"));
}

TEST(ConfigYaml, UnknownValuesAreRefusedWithTheAllowedOnes) {
  EXPECT_EQ(error_more("transport: {kind: tcp}\n"),
            "g.yaml:5: transport.kind: 'tcp' is not one of: ucx | nccl | loopback");
  EXPECT_THAT(error_more("transport: {codec: BF16}\n"), HasSubstr("f32 | bf16"));
  EXPECT_THAT(error_more("log: {level: ''}\n"), HasSubstr("is empty"));
  EXPECT_THAT(error_more("log: {level: ' | '}\n"), HasSubstr("is not one of"));
}

TEST(ConfigYaml, MissingRequiredKeysAreNamed) {
  EXPECT_THAT(error_of(""), HasSubstr("model.path: missing"));
  EXPECT_THAT(error_of(""), HasSubstr("experts.workers: missing"));
  EXPECT_THAT(
      error_of("experts:\n  workers:\n    - {name: w0, address: 'h:1'}\n    - name: w1\nmodel: {path: m}\n"),
      "g.yaml:4: experts.workers[1].address: missing; worker 'w1' needs the HOST:PORT it listens on");
  EXPECT_THAT(error_of("model: {path: m}\nexperts: {workers: [{address: 'h:1'}]}\n"),
              HasSubstr("g.yaml:2: experts.workers[0].name: missing"));
  EXPECT_THAT(error_of("model: {name: x}\nexperts: {workers: [{name: w0, address: 'h:1'}]}\n"),
              HasSubstr("g.yaml:1: model.path: missing"));
}

TEST(ConfigYaml, AllProblemsAreListedInOrderAndBounded) {
  const std::string message = error_more("rooter: {}\nlog: {level: loud}\nrouter: {http: {threads: 0}}\n");
  const size_t first = message.find("g.yaml:5:"), second = message.find("g.yaml:6:"),
               third = message.find("g.yaml:7:");
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_NE(third, message.npos) << message;

  std::string many;
  for (int i = 0; i < 50'000; ++i) many += "k" + std::to_string(i) + ": 1\n";
  const std::string bounded = error_of(many);
  EXPECT_LT(bounded.size(), 5000u);
  EXPECT_THAT(bounded, HasSubstr("and 49980 more problems"));
}

TEST(ConfigYaml, RelativeTraceFileStartsAtTheFile) {
  const auto config = parse_config(std::string(kMinimal) + "trace: {file: traces/t.json}\n", "/etc/g.yaml");
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->trace().file(), "/etc/traces/t.json");
}

TEST(ConfigYaml, MicroBatchesAreAutoOneOrTwo) {
  EXPECT_TRUE(parse_more("router: {batching: {micro_batches: 2}}\n"));
  EXPECT_THAT(error_more("router: {batching: {micro_batches: 3}}\n"),
              HasSubstr(":5: router.batching.micro_batches: '3' is not one of: auto | 1 | 2"));
}

TEST(ConfigYaml, RelativeModelPathStartsAtTheFile) {
  const std::string text = "model: {path: ../models/tiny/}\ntransport: {kind: loopback}\n";
  const auto config = parse_config(text, "/etc/guildhall/g.yaml");
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->model().path(), "/etc/models/tiny/");
  EXPECT_EQ(config->model().name(), "tiny");
}

TEST(ConfigYaml, LoopbackNeedsNoWorkerList) {
  const auto config = parse("model: {path: /m}\ntransport: {kind: loopback}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  ASSERT_EQ(config->experts().workers_size(), 1);
  EXPECT_EQ(config->experts().workers(0).name(), "local");
}

TEST(ConfigYaml, HostileYamlIsRefusedWithItsLine) {
  EXPECT_THAT(error_of("model: &a {path: /m}\nlog: *a\n"), HasSubstr("g.yaml:1: anchors and aliases"));
  EXPECT_THAT(error_of("a: [1]\nb: *undefined\n"), HasSubstr("g.yaml:2: "));
  EXPECT_THAT(error_of("model: !!map {path: /m}\n"), HasSubstr("g.yaml:1: tags are not supported"));
  EXPECT_THAT(error_of("model: {path: !secret x}\n"), HasSubstr("tags are not supported"));
  EXPECT_THAT(error_of("? [a, b]\n: c\n"), HasSubstr("a key must be plain text"));
  EXPECT_THAT(error_of(std::string(kMinimal) + "---\nlog: {level: info}\n"),
              HasSubstr("a second document begins"));
  EXPECT_THAT(error_of("model: {path: /m\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(error_of("model:\n\tpath: /m\n"), HasSubstr("g.yaml:2: not valid YAML"));
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "- ";
  EXPECT_THAT(error_of(deep + "x"), HasSubstr("nested deeper than 16"));
  EXPECT_NE(error_of(std::string(5000, '[')), "accepted");
  EXPECT_THAT(error_of(std::string(kMaxYamlBytes + 1, ' ')), HasSubstr("more than a configuration's limit"));
  EXPECT_THAT(error_of("<<: {a: 1}\n"), HasSubstr("<<: unknown key"));
}

TEST(ConfigYaml, FractionsAreDecimalsAndReadBackEqual) {
  const auto config = parse_more("balance: {min_gain: 0.025, max_bytes: 2GiB}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->balance().min_gain_millionths(), 25'000);
  EXPECT_EQ(config->balance().max_bytes_bytes(), 2ll << 30);
  EXPECT_EQ(config->experts().workers(0).speed_millionths(), 1'000'000);
  const std::string text = describe_config(*config);
  EXPECT_THAT(text, HasSubstr("min_gain: 0.025\n"));
  const auto again = parse_config(text, "/described.yaml");
  ASSERT_TRUE(again) << to_string(again.error()) << "\n" << text;
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*config, *again)) << text;
  EXPECT_THAT(error_more("balance: {min_gain: 5%}\n"), HasSubstr("'5%' is not a number such as 0.05"));
  EXPECT_THAT(error_more("balance: {min_gain: 1.5}\n"),
              HasSubstr("1.5 is out of range; it must be from 0 to 1"));
}

TEST(ConfigYaml, PartsOfAGpusMemory) {
  const auto config = parse_more("router: {kv_cache: {memory_fraction: 0.85, memory_margin: 0}}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->router().kv_cache().memory_fraction_millionths(), 850'000);
  EXPECT_EQ(config->router().kv_cache().memory_margin_millionths(), 0);
  EXPECT_EQ(config->experts().memory_margin_millionths(), 100'000);
  EXPECT_THAT(error_more("router: {kv_cache: {memory_fraction: 85%}}\n"),
              HasSubstr("router.kv_cache.memory_fraction: '85%' is not a number"));
}

TEST(ConfigYaml, DescribedConfigurationReadsBackEqual) {
  const auto config = parse_more(
      "router: {name: r1, http: {listen: '0.0.0.0:8000', max_body: 1234567, read_timeout: 1500us}, "
      "dense: {threads: 2}}\n"
      "transport: {startup_timeout: 90s, ucx: {tls: '~'}}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  const std::string text = describe_config(*config);
  const auto again = parse_config(text, "/described.yaml");
  ASSERT_TRUE(again) << to_string(again.error()) << "\n" << text;
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*config, *again)) << text;
  EXPECT_THAT(text, HasSubstr("max_body: 1234567\n"));
  EXPECT_THAT(text, HasSubstr("read_timeout: 1500us"));
  EXPECT_THAT(text, HasSubstr("memory: 1GiB"));
  EXPECT_THAT(text, HasSubstr("threads: 0"));
  EXPECT_THAT(text, Not(HasSubstr("max_model_len")));
}

TEST(ConfigYaml, FilesThatCannotBeReadAreNamed) {
  const auto missing = read_config("/nonexistent/g.yaml");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::not_found);
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent/g.yaml: no such configuration file"));
  const auto folder = read_config(::testing::TempDir());
  ASSERT_FALSE(folder);
  EXPECT_THAT(folder.error().message, HasSubstr("is a folder"));
}

std::string scratch_file() {
  return ::testing::TempDir() + "config_yaml_test." + std::to_string(getpid()) + ".yaml";
}

TEST(ConfigYaml, AProblemFoundLaterNamesTheLineOfItsKeyOrOfWhatEnclosesIt) {
  const std::string path = scratch_file();
  std::ofstream(path) << kMinimal << "router:\n  kv_cache:\n    spill:\n      path: /none\n";
  const auto message = [&](const char* key) { return config_problem(path, key, "is not there").message; };
  EXPECT_EQ(message("router.kv_cache.spill.path"), path + ":8: router.kv_cache.spill.path: is not there");
  EXPECT_THAT(message("router.kv_cache.spill.size"), HasSubstr(":7: router.kv_cache.spill.size"));
  std::filesystem::remove(path);
  EXPECT_THAT(message("router.kv_cache"), HasSubstr(":1: router.kv_cache"));
}

TEST(ConfigYaml, SpillIsOffUnlessItHasAFolder) {
  EXPECT_EQ(parse(kMinimal)->router().kv_cache().spill().path(), "");
  const auto config = parse_more("router: {kv_cache: {spill: {path: spilled}}}\n");
  ASSERT_TRUE(config) << to_string(config.error());
  const config::Spill& spill = config->router().kv_cache().spill();
  EXPECT_EQ(spill.path(), std::filesystem::absolute("spilled").string()) << "beside the file";
  EXPECT_EQ(spill.size_bytes(), 16ll << 30);
  EXPECT_EQ(spill.buffer_bytes(), 64 << 20);
}

TEST(ConfigYaml, FilesAreReadWhole) {
  const std::string path = scratch_file();
  std::ofstream(path) << kMinimal << "log: {level: warn}";
  const auto config = read_config(path);
  std::filesystem::remove(path);
  ASSERT_TRUE(config) << to_string(config.error());
  EXPECT_EQ(config->log().level(), "warn");
}

}  // namespace
}  // namespace guildhall
