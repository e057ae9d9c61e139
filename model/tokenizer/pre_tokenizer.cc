#include "model/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "model/tokenizer/byte_level.h"

namespace guildhall {
namespace {

constexpr std::string_view kSupported = "null, Split, ByteLevel, Digits, Metaspace and Sequences of them";

// The pattern ByteLevel has built in, which is GPT-2's.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A part of a piece between two cuts.
struct Part {
  ByteSpan span;
  bool delimiter = false;
};

// The whole of [0, size) as matches and the gaps between them.
void cut_at(const std::vector<ByteSpan>& matches, size_t size, bool invert, std::vector<Part>& parts) {
  parts.clear();
  size_t done = 0;
  for (const ByteSpan& match : matches) {
    if (done != match.begin) parts.push_back({{done, match.begin}, invert});
    parts.push_back({match, !invert});
    done = match.end;
  }
  if (done != size) parts.push_back({{done, size}, invert});
}

// Rewrites the text piece by piece: append(piece's index, piece's text, new text).
template <class Append>
void rewrite(Pieces& pieces, Append append) {
  std::string text;
  text.reserve(pieces.text.size() + pieces.text.size() / 4);
  for (size_t i = 0; i < pieces.spans.size(); ++i) {
    const size_t begin = text.size();
    append(i, pieces.view(pieces.spans[i]), text);
    pieces.spans[i] = {begin, text.size()};
  }
  pieces.text = std::move(text);
}

void replace_spaces(std::string_view replacement, Pieces& pieces) {
  rewrite(pieces, [&](size_t, std::string_view piece, std::string& text) {
    for (const char c : piece) {
      if (c == ' ')
        text.append(replacement);
      else
        text.push_back(c);
    }
  });
}

void to_byte_level(Pieces& pieces) {
  rewrite(pieces, [](size_t, std::string_view piece, std::string& text) { append_byte_level(piece, text); });
}

}  // namespace

void PreTokenizer::split(const Step& step, Pieces& pieces) {
  std::vector<ByteSpan> spans, matches;
  std::vector<Part> parts;
  spans.reserve(pieces.text.size() / 4);
  for (const ByteSpan& piece : pieces.spans) {
    step.pattern.find_all(pieces.view(piece), matches);
    cut_at(matches, piece.end - piece.begin, step.invert, parts);
    const bool backwards = step.behavior == Behavior::merged_with_next;
    if (backwards) std::reverse(parts.begin(), parts.end());
    const size_t first = spans.size();
    bool after_delimiter = false;
    for (const Part& part : parts) {
      if (part.span.begin == part.span.end) {  // an empty match still separates
        after_delimiter = part.delimiter;
        continue;
      }
      const ByteSpan span{piece.begin + part.span.begin, piece.begin + part.span.end};
      const bool has_last = spans.size() > first;
      bool merge = false;
      switch (step.behavior) {
        case Behavior::isolated:
          break;
        case Behavior::removed:
          break;
        case Behavior::contiguous:
          merge = part.delimiter == after_delimiter;
          break;
        case Behavior::merged_with_previous:
        case Behavior::merged_with_next:
          merge = part.delimiter && !after_delimiter;
          break;
      }
      after_delimiter = part.delimiter;
      if (step.behavior == Behavior::removed && part.delimiter) continue;
      if (!merge || !has_last)
        spans.push_back(span);
      else if (backwards)
        spans.back().begin = span.begin;
      else
        spans.back().end = span.end;
    }
    if (backwards) std::reverse(spans.begin() + static_cast<std::ptrdiff_t>(first), spans.end());
  }
  pieces.spans = std::move(spans);
}

void PreTokenizer::prepend(const Step& step, Pieces& pieces) {
  rewrite(pieces, [&](size_t idx, std::string_view piece, std::string& text) {
    const bool here = !step.only_at_start || (pieces.at_start && idx == 0);
    if (here && !piece.starts_with(step.text)) text.append(step.text);
    text.append(piece);
  });
}

void PreTokenizer::apply(Pieces& pieces) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::split:
        split(step, pieces);
        break;
      case Kind::prepend:
        prepend(step, pieces);
        break;
      case Kind::replace_spaces:
        replace_spaces(step.text, pieces);
        break;
      case Kind::byte_level:
        to_byte_level(pieces);
        break;
    }
  }
}

Result<void> PreTokenizer::read_split(const Component& component) {
  static constexpr std::array<std::pair<std::string_view, Behavior>, 5> kBehaviors{
      {{"Isolated", Behavior::isolated},
       {"Removed", Behavior::removed},
       {"Contiguous", Behavior::contiguous},
       {"MergedWithPrevious", Behavior::merged_with_previous},
       {"MergedWithNext", Behavior::merged_with_next}}};
  GH_ASSIGN(Regex pattern, read_pattern(component));
  GH_ASSIGN(const std::string name, component.fields.text("behavior"));
  GH_ASSIGN(const bool invert, component.fields.boolean_or("invert", false));
  for (const auto& [known, behavior] : kBehaviors) {
    if (known != name) continue;
    steps_.push_back({Kind::split, std::move(pattern), behavior, invert});
    return {};
  }
  return component.fields.error(Code::unsupported, "behavior",
                                fmt::format("'{}' is not supported; supported: Isolated, Removed, "
                                            "Contiguous, MergedWithPrevious, MergedWithNext",
                                            name));
}

Result<void> PreTokenizer::read_byte_level(const Component& component) {
  GH_ASSIGN(const bool add_prefix_space, component.fields.boolean_or("add_prefix_space", true));
  GH_ASSIGN(const bool use_regex, component.fields.boolean_or("use_regex", true));
  if (add_prefix_space) steps_.push_back({.kind = Kind::prepend, .text = " "});
  if (use_regex) {
    GH_ASSIGN(Regex pattern, Regex::compile(kByteLevelPattern));
    steps_.push_back({Kind::split, std::move(pattern)});
  }
  steps_.push_back({.kind = Kind::byte_level});
  return {};
}

Result<void> PreTokenizer::read_digits(const Component& component) {
  GH_ASSIGN(const bool individual, component.fields.boolean_or("individual_digits", false));
  GH_ASSIGN(Regex pattern, Regex::compile(R"(\p{N})"));
  steps_.push_back({Kind::split, std::move(pattern), individual ? Behavior::isolated : Behavior::contiguous});
  return {};
}

Result<void> PreTokenizer::read_metaspace(const Component& component) {
  GH_ASSIGN(const std::string replacement, component.fields.text("replacement"));
  GH_ASSIGN(const bool add_prefix_space, component.fields.boolean_or("add_prefix_space", true));
  GH_ASSIGN(const std::string scheme,
            component.fields.text_or("prepend_scheme", add_prefix_space ? "always" : "never"));
  GH_ASSIGN(const bool split, component.fields.boolean_or("split", true));
  if (scheme != "always" && scheme != "first" && scheme != "never")
    return component.fields.error(
        Code::unsupported, "prepend_scheme",
        fmt::format("'{}' is not supported; supported: always, first, never", scheme));
  steps_.push_back({.kind = Kind::replace_spaces, .text = replacement});
  if (scheme != "never")
    steps_.push_back({.kind = Kind::prepend, .text = replacement, .only_at_start = scheme == "first"});
  if (split) {
    GH_ASSIGN(Regex pattern, Regex::literal(replacement));
    steps_.push_back({Kind::split, std::move(pattern), Behavior::merged_with_next});
  }
  return {};
}

Result<void> PreTokenizer::read_component(const Component& component) {
  if (component.type == "Split") return read_split(component);
  if (component.type == "ByteLevel") return read_byte_level(component);
  if (component.type == "Digits") return read_digits(component);
  if (component.type == "Metaspace") return read_metaspace(component);
  return component.unsupported(kSupported);
}

Result<PreTokenizer> PreTokenizer::read(const JsonObject& root) {
  PreTokenizer pre_tokenizer;
  GH_ASSIGN(const std::vector<Component> components, read_components(root, "pre_tokenizer", "pretokenizers"));
  for (const Component& component : components) GH_TRY(pre_tokenizer.read_component(component));
  return pre_tokenizer;
}

}  // namespace guildhall
