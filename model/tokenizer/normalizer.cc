#include "model/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <span>

#include "base/check.h"
#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace {

constexpr std::string_view kSupported =
    "null, NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend and Sequences of them";

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Fully decomposed, marks not yet in canonical order.
std::vector<utf8proc_int32_t> decompose(std::string_view text, utf8proc_option_t form) {
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char next = next_utf8(text);
    text.remove_prefix(next.length);
    utf8proc_int32_t parts[32];  // the longest decomposition has 18
    int last_boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next.code), parts, 32, form, &last_boundary);
    GH_CHECK(count >= 0 && count <= 32);
    codes.insert(codes.end(), parts, parts + count);
  }
  return codes;
}

// Sorts each run of marks by combining class. utf8proc's own ordering is quadratic in the length of a run,
// which a client chooses.
void order_marks(std::span<utf8proc_int32_t> codes) {
  const auto combining_class = [](utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
  };
  for (size_t begin = 0; begin < codes.size(); ++begin) {
    if (combining_class(codes[begin]) == 0) continue;
    size_t end = begin + 1;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(begin),
                     codes.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

std::string to_form(std::string_view text, bool compatible, bool composed) {
  if (is_ascii(text)) return std::string(text);
  int form = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
  if (compatible) form |= UTF8PROC_COMPAT;
  std::vector<utf8proc_int32_t> codes = decompose(text, static_cast<utf8proc_option_t>(form));
  order_marks(codes);
  if (composed) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), static_cast<utf8proc_option_t>(form));
    GH_CHECK(count >= 0);
    codes.resize(static_cast<size_t>(count));
  }
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t code : codes) append_utf8(static_cast<char32_t>(code), out);
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char next = next_utf8(text);
    text.remove_prefix(next.length);
    if (next.code == 0x130) {
      out.append("i\xCC\x87");  // the one letter whose lower case is two
    } else {
      append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(next.code))), out);
    }
  }
  return out;
}

}  // namespace

Result<Normalizer::Step> Normalizer::read_step(const Component& component) {
  if (component.type == "NFC") return Step{Kind::nfc};
  if (component.type == "NFD") return Step{Kind::nfd};
  if (component.type == "NFKC") return Step{Kind::nfkc};
  if (component.type == "NFKD") return Step{Kind::nfkd};
  if (component.type == "Lowercase") return Step{Kind::lowercase};
  if (component.type == "Prepend") {
    GH_ASSIGN(std::string content, component.fields.text("prepend"));
    return Step{Kind::prepend, {}, std::move(content)};
  }
  if (component.type == "Replace") {
    GH_ASSIGN(Regex pattern, read_pattern(component));
    GH_ASSIGN(std::string content, component.fields.text("content"));
    return Step{Kind::replace, std::move(pattern), std::move(content)};
  }
  return component.unsupported(kSupported);
}

Result<Normalizer> Normalizer::read(const JsonObject& root) {
  Normalizer normalizer;
  GH_ASSIGN(const std::vector<Component> components, read_components(root, "normalizer", "normalizers"));
  for (const Component& component : components) {
    GH_ASSIGN(Step step, read_step(component));
    normalizer.steps_.push_back(std::move(step));
  }
  return normalizer;
}

std::string Normalizer::apply(std::string_view input) const {
  std::string text(input);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::nfc:
        text = to_form(text, false, true);
        break;
      case Kind::nfd:
        text = to_form(text, false, false);
        break;
      case Kind::nfkc:
        text = to_form(text, true, true);
        break;
      case Kind::nfkd:
        text = to_form(text, true, false);
        break;
      case Kind::lowercase:
        text = to_lower(text);
        break;
      case Kind::replace:
        text = step.pattern.replace_all(text, step.content);
        break;
      case Kind::prepend:
        if (!text.empty()) text.insert(0, step.content);
        break;
    }
  }
  return text;
}

}  // namespace guildhall
