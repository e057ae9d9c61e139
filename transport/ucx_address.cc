// ucx_address.cc: bytes to UcxAddress and back.
#include "transport/ucx_address.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <bit>
#include <cstring>
#include <random>

namespace guildhall {
namespace {

static_assert(std::endian::native == std::endian::little, "the layout below is written by memcpy");

struct Header {
  uint32_t magic;
  uint16_t version, reserved;
  uint64_t instance, network_namespace;
};
static_assert(sizeof(Header) == 24);
constexpr uint32_t kMagic = 0x31554847;  // "GHU1"
constexpr uint16_t kVersion = 1;

}  // namespace

std::string encode(const UcxAddress& address) {
  const Header header{kMagic, kVersion, 0, address.instance, address.network_namespace};
  std::string bytes(sizeof header, '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes + address.worker;
}

Result<UcxAddress> decode_ucx_address(std::string_view bytes) {
  if (bytes.size() <= sizeof(Header) || bytes.size() > kMaxUcxAddressBytes)
    return Status{Code::invalid_argument, fmt::format("a UCX address of {} bytes; {} to {} are possible",
                                                      bytes.size(), sizeof(Header) + 1, kMaxUcxAddressBytes)};
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic)
    return Status{Code::invalid_argument, "not a UCX address; do both ends have transport.kind: ucx?"};
  if (header.version > kVersion || header.version == 0)
    return Status{Code::unsupported,
                  fmt::format("UCX address of version {}; this build knows up to {}; run the same "
                              "release everywhere",
                              header.version, kVersion)};
  if (header.instance == 0) return Status{Code::invalid_argument, "a UCX address without an instance"};
  return UcxAddress{header.instance, header.network_namespace, std::string(bytes.substr(sizeof header))};
}

uint64_t random_instance() {
  std::random_device device;
  uint64_t instance = 0;
  while (instance == 0) instance = uint64_t{device()} << 32 | device();
  return instance;
}

uint64_t own_network_namespace() {
  struct stat info;
  return stat("/proc/self/ns/net", &info) == 0 ? info.st_ino : 0;
}

}  // namespace guildhall
