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

PrefixKey key_of_block(const PrefixKey& before, std::span<const int32_t> block_t) {
  std::vector<uint8_t> input(sizeof(before.bytes) + block_t.size_bytes());
  std::ranges::copy(before.bytes, input.begin());
  std::memcpy(input.data() + before.bytes.size(), block_t.data(), block_t.size_bytes());
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(input.data(), input.size(), digest);
  return first_half(digest);
}

}  // namespace

void extend_prefix_keys(std::span<const int32_t> tokens_t, int64_t block_size, std::string_view salt,
                        std::vector<PrefixKey>& keys) {
  const size_t block = static_cast<size_t>(block_size), num_blocks = tokens_t.size() / block;
  if (keys.size() >= num_blocks) return;
  PrefixKey before = keys.empty() ? key_of_salt(salt) : keys.back();
  for (size_t i = keys.size(); i < num_blocks; ++i)
    keys.push_back(before = key_of_block(before, tokens_t.subspan(i * block, block)));
}

PrefixKey last_block_key(std::span<const int32_t> tokens_t, int64_t block_size, std::string_view salt,
                         std::span<const PrefixKey> keys) {
  const size_t last = (tokens_t.size() - 1) / static_cast<size_t>(block_size);
  return key_of_block(last == 0 ? key_of_salt(salt) : keys[last - 1],
                      tokens_t.subspan(last * static_cast<size_t>(block_size)));
}

}  // namespace guildhall
