#include "proto/host_port.h"

#include <gtest/gtest.h>

namespace guildhall {
namespace {

TEST(HostPort, ReadsNamesAndAddresses) {
  for (const char* text :
       {"10.0.0.11:7000", "localhost:1", "node-3.rack_b.example:65535", "[::1]:7000", "h:0"}) {
    const auto address = parse_host_port(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(to_string(*address), text);
  }
  EXPECT_EQ(parse_host_port("[fe80::1%eth0]:80")->host, "fe80::1%eth0");
}

TEST(HostPort, RefusesWhatIsNotOneAndSaysWhy) {
  const struct {
    const char *text, *why;
  } cases[] = {{"", "no port"},
               {"7000", "no port"},
               {"host", "no port"},
               {":7000", "no host"},
               {"host:", "not a number"},
               {"host:x", "not a number"},
               {"host:-1", "a number"},
               {"host:65536", "a number"},
               {"host:99999999999", "a number"},
               {"host:70 ", "a number"},
               {"::1:7000", "in brackets"},
               {"[::1:7000", "not an IPv6"},
               {"[]:1", "not an IPv6"},
               {"[host]:1", "not an IPv6"},
               {"ho st:1", "a character"},
               {"http://h:1", "in brackets"}};
  for (const auto& [text, why] : cases) {
    const auto address = parse_host_port(text);
    ASSERT_FALSE(address) << text;
    EXPECT_NE(address.error().message.find(why), std::string::npos) << address.error().message;
  }
  EXPECT_FALSE(parse_host_port(std::string(300, 'a') + ":1"));
}

}  // namespace
}  // namespace guildhall
