// lazy_library_test.cc: a library of three functions (lazy_probe.cc) that this program does not link.
#include "base/lazy_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/base/lazy_probe.h"

GH_LAZY_FUNCTION(gh_probe_weigh)
GH_LAZY_FUNCTION(gh_probe_join)
GH_LAZY_FUNCTION(gh_probe_absent)

namespace guildhall {
namespace {

using ::testing::HasSubstr;

TEST(LazyLibrary, CallBeforeLoadingEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(gh_probe_absent(), "before load_library");
}

TEST(LazyLibrary, MissingLibraryIsNamedWithTheRemedy) {
  const LazyFunction functions[] = {GH_LAZY_ROW(gh_probe_weigh)};
  const auto loaded = load_library({"libguildhall_nowhere.so.9", "/usr/lib", "put it there"}, functions);
  ASSERT_TRUE(loaded.has_error());
  EXPECT_EQ(loaded.error().code, Code::not_found);
  EXPECT_THAT(loaded.error().message, HasSubstr("libguildhall_nowhere.so.9"));
  EXPECT_THAT(loaded.error().message, HasSubstr("put it there"));
}

TEST(LazyLibrary, MissingFunctionIsNamed) {
  const LazyFunction functions[] = {GH_LAZY_ROW(gh_probe_absent)};
  const auto loaded = load_library({GUILDHALL_LAZY_PROBE, "", "use version 2"}, functions);
  ASSERT_TRUE(loaded.has_error());
  EXPECT_THAT(loaded.error().message, HasSubstr("has no gh_probe_absent"));
  EXPECT_THAT(loaded.error().message, HasSubstr("use version 2"));
}

TEST(LazyLibrary, FoundInItsUsualFolderItIsCalledWhateverTheSignature) {
  const LazyFunction functions[] = {GH_LAZY_ROW(gh_probe_weigh) GH_LAZY_ROW(gh_probe_join)};
  ASSERT_FALSE(load_library({"liblazy_probe.so", GUILDHALL_LAZY_PROBE_FOLDER, ""}, functions).has_error());
  // More of them than registers hold, of both kinds.
  EXPECT_EQ(gh_probe_weigh(1, 2, 3, 4, 5, 6, 7, 8, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5), 36 + 49.5);
  const ProbeTriple triple = gh_probe_join(ProbeTriple{1, 2, 3}, 10);
  EXPECT_EQ(triple.a, 11);
  EXPECT_EQ(triple.b, 12);
  EXPECT_EQ(triple.c, 13);
}

}  // namespace
}  // namespace guildhall
