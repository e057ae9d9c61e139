// reload_test.cc: a file read again is taken as a whole or not at all.
#include "deploy/programs/reload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <fstream>

#include "proto/config_yaml.h"

namespace guildhall {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ReloadTest : public testing::Test {
 protected:
  ReloadTest() : file_(testing::TempDir() + "reload-" + std::to_string(getpid()) + ".yaml") { write(""); }
  ~ReloadTest() override {
    std::filesystem::remove(file_);
    spdlog::set_level(spdlog::level::info);
  }

  void write(const std::string& more) {
    std::ofstream(file_) << "model: {path: /m}\ntransport: {kind: loopback}\n" << more;
  }
  Reload& reload() {
    if (!reload_)
      reload_.emplace(file_, read_config(file_).value(), [this](const config::Config& config) {
        ++num_applied_;
        applied_ = config;
      });
    return *reload_;
  }

  const std::filesystem::path file_;
  std::optional<Reload> reload_;
  int num_applied_ = 0;
  config::Config applied_;
};

TEST_F(ReloadTest, WhatMayChangeIsAppliedAndTold) {
  reload();
  write("balance: {policy: eplb, interval: 5s}\nlog: {level: error}\n");
  const auto changes = reload().run("test");
  ASSERT_TRUE(changes) << changes.error().message;
  EXPECT_THAT(*changes, ElementsAre(ConfigChange{"balance.policy", "static", "eplb"},
                                    ConfigChange{"balance.interval", "30s", "5s"},
                                    ConfigChange{"log.level", "info", "error"}));
  EXPECT_EQ(num_applied_, 1);
  EXPECT_EQ(applied_.balance().policy(), "eplb");
  EXPECT_EQ(spdlog::get_level(), spdlog::level::err);
  EXPECT_THAT(*reload().run("test"), IsEmpty()) << "it is in force";
}

TEST_F(ReloadTest, AFileWithErrorsChangesNothing) {
  reload();
  write("balance: {policy: eplb, interval: 5}\nlog: {level: error}\n");
  const auto changes = reload().run("test");
  ASSERT_TRUE(changes.has_error());
  EXPECT_THAT(changes.error().message,
              AllOf(HasSubstr(file_.string() + ":3: balance.interval"), HasSubstr("is not a time")));
  EXPECT_EQ(num_applied_, 0);
  EXPECT_NE(spdlog::get_level(), spdlog::level::err);
  std::filesystem::remove(file_);
  EXPECT_EQ(reload().run("test").error().code, Code::not_found);
}

TEST_F(ReloadTest, AChangeThatNeedsARestartIsRefusedWithAllTheRest) {
  reload();
  write("balance: {policy: eplb}\nrouter:\n  kv_cache: {memory: 2GiB}\n");
  const auto changes = reload().run("test");
  ASSERT_TRUE(changes.has_error());
  EXPECT_THAT(changes.error().message,
              HasSubstr(file_.string() + ":5: router.kv_cache.memory: 1GiB -> 2GiB; this needs a restart"));
  EXPECT_EQ(num_applied_, 0);
  write("balance: {policy: eplb}\n");
  EXPECT_THAT(reload().run("test").value(), ElementsAre(ConfigChange{"balance.policy", "static", "eplb"}));
}

}  // namespace
}  // namespace guildhall
