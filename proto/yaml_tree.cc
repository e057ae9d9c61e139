#include "proto/yaml_tree.h"

#include <fmt/format.h>
#include <utf8proc.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>

namespace guildhall {
namespace {

// Thrown through yaml-cpp's parser, which has no other way to stop; caught in parse_yaml.
struct Refusal {
  int line;
  std::string why;
};

// Builds the tree from the parser's events. `open_` is the path of containers being filled.
class TreeBuilder : public YAML::EventHandler {
 public:
  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override { root_.line = mark.line + 1; }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(YamlNode{.kind = YamlNode::Kind::null, .line = mark.line + 1});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark, 1); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    add(YamlNode{
        .kind = YamlNode::Kind::scalar, .line = mark.line + 1, .scalar = value, .quoted = tag == "!"});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::sequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  // A container in a vector that grows only while nothing inside it is open, so the pointer stays good.
  struct Open {
    YamlNode* node;
    bool key_due = true;  // of maps: the next event is a key
  };

  static void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0)
      throw Refusal{mark.line + 1, "anchors and aliases (& and *) are not supported; write the value"};
  }
  // yaml-cpp gives "?" to plain scalars, "!" to quoted ones, and nothing or "?" to containers.
  static void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      throw Refusal{mark.line + 1, fmt::format("tags are not supported; leave out '{}'", tag.substr(0, 64))};
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (open_.size() == kMaxYamlDepth)
      throw Refusal{mark.line + 1, fmt::format("nested deeper than {} levels", kMaxYamlDepth)};
    if (YamlNode* node = add(YamlNode{.kind = kind, .line = mark.line + 1})) open_.push_back({node});
  }

  // Puts a node where the parser is; null when it became a key.
  YamlNode* add(YamlNode node) {
    if (++num_nodes_ > kMaxYamlNodes)
      throw Refusal{node.line, fmt::format("more than {} values", kMaxYamlNodes)};
    if (open_.empty()) {
      root_ = std::move(node);
      return &root_;
    }
    Open& parent = open_.back();
    if (parent.node->kind == YamlNode::Kind::sequence) {
      return &parent.node->items.emplace_back(std::move(node));
    }
    if (parent.key_due) {
      if (node.kind != YamlNode::Kind::scalar) throw Refusal{node.line, "a key must be plain text"};
      parent.node->entries.push_back({.key = std::move(node.scalar), .line = node.line});
      parent.key_due = false;
      return nullptr;
    }
    parent.key_due = true;
    parent.node->entries.back().value = std::move(node);
    return &parent.node->entries.back().value;
  }

  YamlNode root_;
  std::vector<Open> open_;
  size_t num_nodes_ = 0;
};

// Bytes at the beginning of `text` that are valid UTF-8.
size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t code_point = 0;
    const auto* next = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
    const auto length = utf8proc_iterate(next, static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
    if (length <= 0) break;
    at += static_cast<size_t>(length);
  }
  return at;
}

}  // namespace

Result<YamlNode> parse_yaml(std::string_view text, std::string_view filename) {
  if (text.size() > kMaxYamlBytes)
    return Status{Code::invalid_argument,
                  fmt::format("{}: {} bytes are more than a configuration's limit of {}", filename,
                              text.size(), kMaxYamlBytes)};
  const auto at_line = [&](int line, std::string_view why) {
    return Status{Code::invalid_argument, fmt::format("{}:{}: {}", filename, line, why)};
  };
  if (const size_t valid = valid_utf8_prefix(text); valid < text.size())
    return at_line(1 + static_cast<int>(
                           std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(valid), '\n')),
                   "not valid UTF-8");
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    TreeBuilder builder;
    if (!parser.HandleNextDocument(builder)) return YamlNode{};
    YamlNode root = builder.take();
    TreeBuilder second;
    if (parser.HandleNextDocument(second))
      return at_line(second.take().line, "a second document begins here; a configuration is one document");
    return root;
  } catch (const Refusal& refusal) {
    return at_line(refusal.line, refusal.why);
  } catch (const YAML::Exception& error) {
    return at_line(error.mark.line + 1, "not valid YAML: " + error.msg);
  } catch (const std::exception& error) {
    return Status{Code::invalid_argument, fmt::format("{}: not valid YAML: {}", filename, error.what())};
  }
}

}  // namespace guildhall
