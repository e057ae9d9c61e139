#include "router/prefix_key.h"

#include <openssl/sha.h>

#include <algorithm>

namespace guildhall {
namespace {

PrefixKey first_half(const unsigned char (&digest)[SHA256_DIGEST_LENGTH]) {
  PrefixKey key;
  std::copy_n(digest, key.bytes.size(), key.bytes.begin());
  return key;
}

PrefixKey key_of_salt(std::string_view salt) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(salt.data()), salt.size(), digest);
  return first_half(digest);
}

}  // namespace

void extend_prefix_keys(std::span<const int32_t> tokens_t, int64_t block_size, std::string_view salt,
                        std::vector<PrefixKey>& keys) {
  const size_t block = static_cast<size_t>(block_size), num_blocks = tokens_t.size() / block;
  if (keys.size() >= num_blocks) return;
  PrefixKey before = keys.empty() ? key_of_salt(salt) : keys.back();
  std::vector<uint8_t> input(sizeof(before.bytes) + block * sizeof(int32_t));
  for (size_t i = keys.size(); i < num_blocks; ++i) {
    std::ranges::copy(before.bytes, input.begin());
    std::memcpy(input.data() + before.bytes.size(), tokens_t.data() + i * block, block * sizeof(int32_t));
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256(input.data(), input.size(), digest);
    keys.push_back(before = first_half(digest));
  }
}

}  // namespace guildhall
