// yaml_tree.h: a YAML document as a bounded tree that remembers lines. yaml-cpp parses; this refuses what a
// configuration has no use for (anchors, aliases, tags, several documents) and what is too deep or too large.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace guildhall {

inline constexpr size_t kMaxYamlBytes = 1 << 20;  // a worker takes about 100 bytes: thousands of them fit
inline constexpr size_t kMaxYamlNodes = 1 << 17;
inline constexpr size_t kMaxYamlDepth = 16;  // the schema needs 5

struct YamlNode {
  enum class Kind { null, scalar, sequence, map };
  struct Entry;

  Kind kind = Kind::null;
  int line = 1;  // 1-based
  std::string scalar;
  bool quoted = false;          // of scalars: written in quotes or as a block, so text whatever it looks like
  std::vector<YamlNode> items;  // of sequences
  std::vector<Entry> entries;   // of maps, in file order; duplicates are kept
};

struct YamlNode::Entry {
  std::string key;
  int line = 1;
  YamlNode value;
};

// `filename` is for messages: "guildhall.yaml:12: ...". An empty text is a null node.
Result<YamlNode> parse_yaml(std::string_view text, std::string_view filename);

}  // namespace guildhall
