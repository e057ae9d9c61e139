#include "router/balance/replica_choice.h"

#include <fmt/format.h>

#include <array>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace guildhall {
namespace {

constexpr std::array<std::pair<ReplicaChoice, std::string_view>, 4> kChoices{
    {{ReplicaChoice::hash, "hash"},
     {ReplicaChoice::least_loaded, "least_loaded"},
     {ReplicaChoice::nearest, "nearest"},
     {ReplicaChoice::power_of_two, "power_of_two"}}};

// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t mix(const TokenKey& key) {
  const uint64_t place = uint64_t{static_cast<uint32_t>(key.layer)} << 32 | static_cast<uint32_t>(key.expert);
  return mix(mix(mix(key.seed) ^ key.position) ^ place);
}

// Rendezvous hashing (Thaler, Ravishankar 1998): each replica's rank is its own, whatever others there are.
uint64_t rank(uint64_t token, const Replica& replica) {
  return mix(token ^ mix(static_cast<uint64_t>(replica.worker)));
}

// The replica for which cost(replica), then the rank, is least.
template <class Cost>
size_t least(uint64_t token, std::span<const Replica> replicas, const Cost& cost) {
  size_t best = 0;
  auto best_cost = std::tuple(cost(replicas[0]), rank(token, replicas[0]));
  for (size_t i = 1; i < replicas.size(); ++i)
    if (const auto found = std::tuple(cost(replicas[i]), rank(token, replicas[i])); found < best_cost)
      best = i, best_cost = found;
  return best;
}

}  // namespace

std::string_view to_string(ReplicaChoice choice) {
  for (const auto& [known, name] : kChoices)
    if (known == choice) return name;
  return "";
}

Result<ReplicaChoice> parse_replica_choice(std::string_view name) {
  for (const auto& [choice, known] : kChoices)
    if (known == name) return choice;
  return Status{
      Code::invalid_argument,
      fmt::format("replica_choice '{}' is not one of: hash, least_loaded, nearest, power_of_two", name)};
}

size_t choose_replica(ReplicaChoice choice, const TokenKey& key, std::span<const Replica> replicas,
                      const ReplicaCosts& costs) {
  GH_CHECK(!replicas.empty());
  if (replicas.size() == 1) return 0;
  const uint64_t token = mix(key);
  const auto load = [&](const Replica& replica) { return costs.load_w[static_cast<size_t>(replica.worker)]; };
  switch (choice) {
    case ReplicaChoice::hash:
      return least(token, replicas, [](const Replica&) { return 0; });
    case ReplicaChoice::least_loaded:
      return least(token, replicas, load);
    case ReplicaChoice::nearest:
      return least(token, replicas, [&](const Replica& replica) {
        return costs.distance_w[static_cast<size_t>(replica.worker)];
      });
    case ReplicaChoice::power_of_two: {
      const size_t first = least(token, replicas, [](const Replica&) { return 0; });
      const size_t second = least(token, replicas, [&](const Replica& replica) {
        return replica == replicas[first] ? 1 : 0;  // the least rank but the first's
      });
      return load(replicas[second]) < load(replicas[first]) ? second : first;
    }
  }
  return 0;
}

}  // namespace guildhall
