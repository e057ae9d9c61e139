// prefix_key.h: what a full page of the KV cache holds, as a key: the tokens of its block and all before it,
// and who may share them. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace guildhall {

// The first half of SHA-256 over the key of the block before (of the salt, for the first) and the block's
// ids. Cryptographic, as finding two texts of one key would show one tenant's text to another's model.
struct PrefixKey {
  std::array<uint8_t, 16> bytes{};
  bool operator==(const PrefixKey&) const = default;
};
struct PrefixKeyHash {
  size_t operator()(const PrefixKey& key) const {
    size_t hash;
    std::memcpy(&hash, key.bytes.data(), sizeof(hash));
    return hash;
  }
};

// Extends `keys`, which has those of the leading blocks of tokens_t, to all of its full blocks. Requests with
// different salts never share.
void extend_prefix_keys(std::span<const int32_t> tokens_t, int64_t block_size, std::string_view salt,
                        std::vector<PrefixKey>& keys);
// The key of the last block of tokens_t, full or not. `keys` has those of the blocks before it, at least.
PrefixKey last_block_key(std::span<const int32_t> tokens_t, int64_t block_size, std::string_view salt,
                         std::span<const PrefixKey> keys);

}  // namespace guildhall
