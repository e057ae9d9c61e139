// regex_syntax.cc: from Oniguruma's Ruby syntax to PCRE2's.
#include <fmt/format.h>

#include <cctype>

#include "model/tokenizer/regex.h"

namespace guildhall {
namespace {

// Oniguruma's \w under Unicode; PCRE2's own leaves out marks and letter numbers.
constexpr std::string_view kWordClass = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kHexClass = "0-9A-Fa-f";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (pos_ < pattern_.size()) {
      const char c = pattern_[pos_];
      if (c == '\\') {
        GH_TRY(escape());
      } else if (in_class_) {
        GH_TRY(class_member());
      } else if (c == '[') {
        open_class();
      } else if (c == '(' && rest().starts_with("(?")) {
        GH_TRY(group());
      } else if (c == '{') {
        GH_TRY(interval());
      } else {
        take(1);
      }
    }
    return std::move(out_);
  }

 private:
  std::string_view rest() const { return pattern_.substr(pos_); }
  void take(size_t length) {
    out_.append(pattern_.substr(pos_, length));
    pos_ += length;
  }
  void replace(size_t length, std::string_view text) {
    out_.append(text);
    pos_ += length;
  }
  Status refuse(std::string_view what) const {
    return Status{Code::unsupported,
                  fmt::format("pattern '{}': {} at byte {} is not supported", pattern_, what, pos_)};
  }

  // A set of characters, as a class of its own or as a part of the one we are in.
  Result<void> set(std::string_view members, bool negated) {
    if (!in_class_) {
      replace(2, fmt::format("[{}{}]", negated ? "^" : "", members));
    } else if (!negated) {
      replace(2, members);
    } else {
      return refuse(fmt::format("{} inside a class", rest().substr(0, 2)));
    }
    return {};
  }

  Result<void> escape() {
    if (rest().size() < 2) return refuse("a trailing backslash");
    const char c = rest()[1];
    switch (c) {
      // PCRE2's \s counts U+180E, which Unicode no longer does.
      case 's':
        replace(2, R"(\p{White_Space})");
        return {};
      case 'S':
        replace(2, R"(\P{White_Space})");
        return {};
      case 'w':
        return set(kWordClass, false);
      case 'W':
        return set(kWordClass, true);
      case 'h':
        return set(kHexClass, false);
      case 'H':
        return set(kHexClass, true);
      case 'v':
        replace(2, R"(\x0b)");
        return {};
      case 'u':
        return unicode_escape();
      case 'p':
      case 'P':
        return property();
      default:
        break;
    }
    if (std::isalpha(static_cast<unsigned char>(c)) &&
        std::string_view("abBdDefnrtxAzZ").find(c) == std::string_view::npos)
      return refuse(fmt::format("\\{}", c));
    take(2);
    return {};
  }

  Result<void> unicode_escape() {
    const std::string_view digits = rest().substr(2, 4);
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
      return refuse("\\u without four hexadecimal digits");
    replace(6, fmt::format("\\x{{{}}}", digits));
    return {};
  }

  // Scripts: PCRE2 reads \p{Han} as script extensions, Oniguruma as the script.
  Result<void> property() {
    const size_t close = rest().find('}');
    if (rest().size() < 4 || rest()[2] != '{' || close == std::string_view::npos)
      return refuse("\\p without braces");
    std::string_view name = rest().substr(3, close - 3);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    const std::string script = fmt::format("\\{}{{{}sc:{}}}", rest()[1], negated ? "^" : "", name);
    if (name.size() > 2 && name.find(':') == std::string_view::npos && Regex::is_script(name))
      replace(close + 1, script);
    else
      take(close + 1);
    return {};
  }

  void open_class() {
    in_class_ = true;
    take(1);
    if (rest().starts_with('^')) take(1);
    if (rest().starts_with(']')) replace(1, "\\]");  // first in a class it stands for itself
  }

  Result<void> class_member() {
    if (rest().starts_with("[:")) {
      const size_t close = rest().find(":]");
      if (close == std::string_view::npos) return refuse("an open [: ");
      take(close + 2);
      return {};
    }
    if (rest()[0] == '[') return refuse("a class inside a class");
    if (rest().starts_with("&&")) return refuse("an intersection of classes (&&)");
    if (rest()[0] == ']') in_class_ = false;
    take(1);
    return {};
  }

  // (?m) is "dot matches newline" in Ruby, which PCRE2 calls s. A bare (?i) reaches over | differently,
  // except at the very start.
  Result<void> group() {
    size_t length = 2;
    while (length < rest().size() && std::string_view("imx-").find(rest()[length]) != std::string_view::npos)
      ++length;
    const char end = length < rest().size() ? rest()[length] : '\0';
    if (length == 2 || (end != ':' && end != ')')) {
      take(2);
      return {};
    }
    if (end == ')' && pos_ != 0) return refuse("a flag that is neither (?flags:...) nor at the start");
    std::string flags(rest().substr(0, length));
    for (char& flag : flags) {
      if (flag == 'm') flag = 's';
    }
    replace(length, flags);
    return {};
  }

  // {,n} means {0,n}; {n,m}+ repeats in Ruby but is possessive in PCRE2.
  Result<void> interval() {
    const size_t close = rest().find('}');
    if (close == std::string_view::npos ||
        rest().substr(1, close - 1).find_first_not_of("0123456789,") != std::string_view::npos) {
      take(1);
      return {};
    }
    if (rest().substr(close + 1).starts_with('+')) return refuse("{n,m}+");
    if (rest()[1] == ',' && close > 2) {
      replace(1, "{0");
    } else {
      take(1);
    }
    return {};
  }

  std::string_view pattern_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

Result<std::string> onig_to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace guildhall
