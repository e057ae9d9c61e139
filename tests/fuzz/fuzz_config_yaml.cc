// fuzz_config_yaml.cc: any text as a configuration. What is accepted is described and read back equal.
#include <google/protobuf/util/message_differencer.h>

#include <cstdint>
#include <string>

#include "base/check.h"
#include "proto/config.pb.h"
#include "proto/config_yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace guildhall;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = parse_config(text, "/fuzz/guildhall.yaml");
  if (!config) {
    GH_CHECK(!config.error().message.empty());
    return 0;
  }
  const auto again = parse_config(describe_config(*config), "/fuzz/described.yaml");
  GH_CHECK(again.has_value());
  GH_CHECK(google::protobuf::util::MessageDifferencer::Equals(*config, *again));
  return 0;
}
