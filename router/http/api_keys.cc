#include "router/http/api_keys.h"

#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

namespace guildhall {
namespace {

constexpr size_t kLeastKeyLength = 16, kLargestFile = 1 << 20;
constexpr int32_t kPriorityLimit = 1000;

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  line = line.substr(0, line.find('#'));
  while (!line.empty()) {
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) break;
    const size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    line.remove_prefix(end);
  }
  return words;
}

bool is_equal_ignoring_case(std::string_view a, std::string_view lower) {
  return std::ranges::equal(a, lower,
                            [](char x, char y) { return (x >= 'A' && x <= 'Z' ? x | 0x20 : x) == y; });
}

// Of "Bearer KEY".
std::optional<std::string_view> bearer_key(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size() ||
      !is_equal_ignoring_case(authorization.substr(0, kScheme.size()), kScheme))
    return std::nullopt;
  const auto words = words_of(authorization.substr(kScheme.size()));
  return words.size() == 1 ? std::optional(words[0]) : std::nullopt;
}

}  // namespace

size_t ApiKeys::DigestHash::operator()(const Digest& digest) const {
  size_t hash;
  std::memcpy(&hash, digest.bytes.data(), sizeof(hash));
  return hash;
}

ApiKeys::Digest ApiKeys::digest_of(std::string_view key) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.bytes.data());
  return digest;
}

Result<std::shared_ptr<const ApiKeys>> ApiKeys::read(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in)
    return Status{Code::not_found, fmt::format("router.http.api_keys_file: cannot read {}", file.string())};
  std::string text(kLargestFile + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kLargestFile)
    return Status{Code::invalid_argument,
                  fmt::format("router.http.api_keys_file: {} is larger than 1 MiB", file.string())};
  return parse(text, file.string());
}

Result<std::shared_ptr<const ApiKeys>> ApiKeys::parse(std::string_view text, const std::string& file_name) {
  auto keys = std::make_shared<ApiKeys>();
  for (int line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    GH_TRY(keys->add(text.substr(0, end), fmt::format("{}:{}", file_name, line)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (keys->size() == 0)
    return Status{Code::invalid_argument,
                  fmt::format("router.http.api_keys_file: {} has no keys; a line is NAME KEY", file_name)};
  keys->derive_router_key();
  return std::shared_ptr<const ApiKeys>(std::move(keys));
}

Result<void> ApiKeys::add(std::string_view line, const std::string& place) {
  const auto words = words_of(line);
  const auto bad = [&](std::string_view why) {
    return Status{Code::invalid_argument, fmt::format("{}: {}", place, why)};
  };
  if (words.empty()) return {};
  if (words.size() < 2 || words.size() > 3) return bad("a line is NAME KEY, or NAME KEY PRIORITY");
  Tenant tenant{.name = std::string(words[0])};
  if (words[1].size() < kLeastKeyLength)
    return bad(fmt::format("the key has {} characters; the least is {}", words[1].size(), kLeastKeyLength));
  if (words.size() == 3) {
    const auto [end, error] =
        std::from_chars(words[2].data(), words[2].data() + words[2].size(), tenant.best_priority);
    if (error != std::errc() || end != words[2].data() + words[2].size() ||
        std::abs(tenant.best_priority) > kPriorityLimit)
      return bad(
          fmt::format("the priority is a whole number from {} to {}", -kPriorityLimit, kPriorityLimit));
  }
  if (!tenant_of_.emplace(digest_of(words[1]), std::move(tenant)).second)
    return bad("the key stands on an earlier line, too");
  return {};
}

// The keys' digests in one order, whatever the file's.
void ApiKeys::derive_router_key() {
  std::vector<std::string> digests;
  for (const auto& [digest, tenant] : tenant_of_)
    digests.emplace_back(digest.bytes.begin(), digest.bytes.end());
  std::ranges::sort(digests);
  std::string text = "guildhall router";
  for (const std::string& digest : digests) text += digest;
  for (const uint8_t byte : digest_of(text).bytes) router_key_ += fmt::format("{:02x}", byte);
}

const Tenant* ApiKeys::find(std::string_view authorization) const {
  const std::optional<std::string_view> key = bearer_key(authorization);
  if (!key) return nullptr;
  const auto found = tenant_of_.find(digest_of(*key));
  return found == tenant_of_.end() ? nullptr : &found->second;
}

bool ApiKeys::is_router(std::string_view authorization) const {
  const std::optional<std::string_view> key = bearer_key(authorization);
  return key && digest_of(*key) == digest_of(router_key_);
}

}  // namespace guildhall
