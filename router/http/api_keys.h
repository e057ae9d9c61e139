// api_keys.h: who may use the API. A file with a line for each key, `NAME KEY [PRIORITY]`; `#` begins a
// comment. NAME is the tenant: tenants take turns (router/wait_queue.h) and share no cached prefixes, and
// several keys may have one name. PRIORITY is the most important (lowest) that requests with this key may ask
// for; 0 without it. Keys are kept as digests and are never printed. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/status.h"

namespace guildhall {

struct Tenant {
  std::string name;
  int32_t best_priority = 0;
};

class ApiKeys {
 public:
  // Errors name the file and the line, never the key.
  static Result<std::shared_ptr<const ApiKeys>> read(const std::filesystem::path& file);
  static Result<std::shared_ptr<const ApiKeys>> parse(std::string_view text, const std::string& file_name);

  // Of an Authorization header, "Bearer KEY"; nullptr: none of the keys.
  const Tenant* find(std::string_view authorization) const;
  size_t size() const { return tenant_of_.size(); }

  // What routers show each other, and nobody else has: it comes of all keys of the file, which is the same
  // for all routers. An Authorization header's value.
  std::string router_authorization() const { return "Bearer " + router_key_; }
  bool is_router(std::string_view authorization) const;

 private:
  // SHA-256 of a key: looking it up takes no time that depends on how much of a guess is right.
  struct Digest {
    std::array<uint8_t, 32> bytes{};
    bool operator==(const Digest&) const = default;
  };
  struct DigestHash {
    size_t operator()(const Digest& digest) const;
  };
  static Digest digest_of(std::string_view key);
  Result<void> add(std::string_view line, const std::string& place);
  void derive_router_key();

  std::unordered_map<Digest, Tenant, DigestHash> tenant_of_;
  std::string router_key_;
};

}  // namespace guildhall
