#include "model/tokenizer/decoder.h"

#include <fmt/format.h>

#include <charconv>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

constexpr std::string_view kSupported =
    "ByteLevel alone, or a Sequence of Replace, Metaspace, ByteFallback, then Fuse, then Strip";

}  // namespace

Result<void> Decoder::read_component(const Component& component) {
  const JsonObject& fields = component.fields;
  if (component.type == "ByteLevel") {
    byte_level_ = true;
  } else if (component.type == "ByteFallback") {
    byte_fallback_ = true;
  } else if (component.type == "Fuse") {
    fused_ = true;
  } else if (component.type == "Replace" && !fused_) {
    GH_ASSIGN(Regex pattern, read_pattern(component));
    GH_ASSIGN(std::string content, fields.text("content"));
    replaces_.push_back({std::move(pattern), std::move(content)});
  } else if (component.type == "Metaspace" && !fused_) {
    GH_ASSIGN(const std::string sign, fields.text("replacement"));
    GH_ASSIGN(const bool add_prefix_space, fields.boolean_or("add_prefix_space", true));
    GH_ASSIGN(const std::string scheme,
              fields.text_or("prepend_scheme", add_prefix_space ? "always" : "never"));
    GH_ASSIGN(Regex pattern, Regex::literal(sign));
    replaces_.push_back({std::move(pattern), " "});
    if (scheme != "never") dropped_in_first_ = sign;
  } else if (component.type == "Strip" && fused_) {
    Strip strip;
    GH_ASSIGN(strip.content, fields.text("content"));
    GH_ASSIGN(strip.start, fields.integer_or("start", 0, {0, 1 << 20}));
    GH_ASSIGN(strip.stop, fields.integer_or("stop", 0, {0, 1 << 20}));
    if (strip.content.empty()) return fields.error(Code::invalid_argument, "content", "must be a character");
    strips_.push_back(std::move(strip));
  } else {
    return component.unsupported(kSupported);
  }
  return {};
}

Result<Decoder> Decoder::read(const JsonObject& root) {
  Decoder decoder;
  GH_ASSIGN(const std::vector<Component> components, read_components(root, "decoder", "decoders"));
  if (components.empty())
    return root.error(Code::unsupported, "decoder", fmt::format("is missing; supported: {}", kSupported));
  for (const Component& component : components) GH_TRY(decoder.read_component(component));
  if (decoder.byte_level_ && components.size() > 1)
    return root.error(Code::unsupported, "decoder",
                      fmt::format("ByteLevel is one of several; supported: {}", kSupported));
  return decoder;
}

// "<0x0A>", when ByteFallback reads such tokens.
std::optional<char> Decoder::fallback_byte(std::string_view token) const {
  if (!byte_fallback_ || token.size() != 6 || !token.starts_with("<0x") || token[5] != '>')
    return std::nullopt;
  unsigned byte = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return static_cast<char>(byte);
}

std::string Decoder::token_bytes(std::string_view token) const {
  if (byte_level_) return from_byte_level(token).value_or(std::string(token));
  std::string text(token);
  for (const Replace& replace : replaces_) text = replace.pattern.replace_all(text, replace.content);
  if (const std::optional<char> byte = fallback_byte(text)) return std::string(1, *byte);
  return text;
}

std::string Decoder::decode(const std::vector<std::string_view>& tokens) const {
  std::string bytes, text;
  // A run of byte tokens is text if all of it is valid, and else one U+FFFD for each byte.
  const auto end_run = [&] {
    if (valid_utf8_length(bytes) == bytes.size()) {
      text += bytes;
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) append_utf8(0xFFFD, text);
    }
    bytes.clear();
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::string token(tokens[i]);
    for (size_t at;
         i == 0 && !dropped_in_first_.empty() && (at = token.find(dropped_in_first_)) != std::string::npos;)
      token.erase(at, dropped_in_first_.size());
    if (const std::optional<char> byte = fallback_byte(token)) {
      bytes.push_back(*byte);
      continue;
    }
    end_run();
    text += token_bytes(token);
  }
  end_run();
  std::string_view rest = text;
  for (const Strip& strip : strips_) {
    for (int64_t i = 0; i < strip.start && rest.starts_with(strip.content); ++i)
      rest.remove_prefix(strip.content.size());
    for (int64_t i = 0; i < strip.stop && rest.ends_with(strip.content); ++i)
      rest.remove_suffix(strip.content.size());
  }
  return std::string(rest);
}

}  // namespace guildhall
