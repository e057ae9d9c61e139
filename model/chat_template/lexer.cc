#include "model/chat_template/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "model/chat_template/python_text.h"
#include "model/tokenizer/utf8.h"

namespace guildhall::jinja {
namespace {

// Longest first, so that "//" is not two divisions.
constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                           "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                           ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) {
  return c == '_' || is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 0x80;
}

// \r\n and \r become \n, and one newline at the end goes.
std::string normalized(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)) {}

  Result<std::vector<Token>> run() {
    while (pos_ < source_.size()) {
      const size_t tag = find_tag();
      if (tag == std::string::npos) {
        put(Token::Kind::data, source_.substr(pos_));
        skip(rest().size());
        break;
      }
      GH_TRY(take_tag(tag));
    }
    put(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(pos_); }
  Status fail(std::string_view message) const { return template_error(line_, message); }

  void put(Token::Kind kind, std::string text) {
    if (kind == Token::Kind::data && text.empty()) return;
    tokens_.push_back({kind, std::move(text), line_});
  }

  // Moves on over `length` bytes and counts their lines.
  void skip(size_t length) {
    const auto from = source_.begin() + static_cast<std::ptrdiff_t>(pos_);
    line_ += static_cast<int>(std::count(from, from + static_cast<std::ptrdiff_t>(length), '\n'));
    if (length > 0) line_starting_ = source_[pos_ + length - 1] == '\n';
    pos_ += length;
  }
  void skip_space() { skip(rest().size() - strip_left(rest(), std::nullopt).size()); }

  size_t find_tag() const {
    for (size_t at = source_.find('{', pos_); at != std::string::npos; at = source_.find('{', at + 1)) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return std::string::npos;
  }

  Result<void> take_tag(size_t tag) {
    const char kind = source_[tag + 1];
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign != '-' && sign != '+') sign = '\0';
    put(Token::Kind::data, data_before(tag, kind, sign));
    const size_t begin_length = sign == '\0' ? 2 : 3;
    skip(tag - pos_);
    if (kind == '#') {
      skip(begin_length);
      return take_comment();
    }
    if (kind == '%') {
      if (const size_t raw = raw_begin_length(begin_length); raw > 0) {
        skip(raw);
        return take_raw();
      }
    }
    put(kind == '{' ? Token::Kind::variable_begin : Token::Kind::block_begin, "");
    skip(begin_length);
    return take_expression(kind == '{');
  }

  // The text before a tag, as far as it will be printed.
  std::string data_before(size_t tag, char kind, char sign) const {
    std::string_view text = std::string_view(source_).substr(pos_, tag - pos_);
    if (sign == '-') return std::string(strip_right(text, std::nullopt));
    if (sign == '+' || kind == '{') return std::string(text);
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    if ((line_begin > 0 || line_starting_) && strip_left(text.substr(line_begin), std::nullopt).empty())
      text = text.substr(0, line_begin);
    return std::string(text);
  }

  // After the closing mark of a block or comment: its own newline goes, unless a sign says otherwise.
  void skip_end(char sign, size_t length) {
    skip(length);
    if (sign == '-')
      skip_space();
    else if (sign != '+' && rest().starts_with('\n'))
      skip(1);
  }

  Result<void> take_comment() {
    const size_t end = source_.find("#}", pos_);
    if (end == std::string::npos) return fail("a comment {# has no end #}");
    const char sign = end > pos_ ? source_[end - 1] : '\0';
    skip(end - pos_);
    skip_end(sign, 2);
    return {};
  }

  // How long "{% raw %}" is when it stands here; 0 when it does not.
  size_t raw_begin_length(size_t begin_length) const {
    std::string_view text = strip_left(rest().substr(begin_length), std::nullopt);
    if (!text.starts_with("raw")) return 0;
    text = strip_left(text.substr(3), std::nullopt);
    if (text.starts_with("-%}")) return rest().size() - strip_left(text.substr(3), std::nullopt).size();
    return text.starts_with("%}") ? rest().size() - text.size() + 2 : 0;
  }

  Result<void> take_raw() {
    for (size_t at = source_.find("{%", pos_); at != std::string::npos; at = source_.find("{%", at + 1)) {
      std::string_view tail = std::string_view(source_).substr(at + 2);
      const char sign = tail.empty() ? '\0' : tail[0];
      if (sign == '-' || sign == '+') tail.remove_prefix(1);
      tail = strip_left(tail, std::nullopt);
      if (!tail.starts_with("endraw")) continue;
      tail = strip_left(tail.substr(6), std::nullopt);
      const char end_sign = tail.empty() ? '\0' : tail[0];
      if (end_sign == '-' || end_sign == '+') tail.remove_prefix(1);
      if (!tail.starts_with("%}")) continue;
      put(Token::Kind::data, data_before(at, '%', sign == '-' || sign == '+' ? sign : '\0'));
      skip(source_.size() - tail.size() - pos_);
      skip_end(end_sign, 2);
      return {};
    }
    return fail("{% raw %} has no {% endraw %}");
  }

  Result<void> take_expression(bool variable) {
    const std::string_view end = variable ? "}}" : "%}";
    open_.clear();
    while (true) {
      skip_space();
      if (rest().empty()) return fail(fmt::format("the template ends inside a tag; {} is missing", end));
      if (open_.empty() && take_end(variable, end)) return {};
      GH_TRY(take_token());
    }
  }

  bool take_end(bool variable, std::string_view end) {
    std::string_view text = rest();
    const char sign = text[0];
    const bool has_sign = sign == '-' || (sign == '+' && !variable);
    if (has_sign) text.remove_prefix(1);
    if (!text.starts_with(end)) return false;
    put(variable ? Token::Kind::variable_end : Token::Kind::block_end, "");
    if (!variable) {
      skip_end(has_sign ? sign : '\0', has_sign ? 3 : 2);
      return true;
    }
    skip(has_sign ? 3 : 2);
    if (has_sign) skip_space();
    return true;
  }

  Result<void> take_token() {
    const std::string_view text = rest();
    if (is_digit(text[0])) return take_number();
    if (is_name_char(text[0])) {
      size_t length = 1;
      while (length < text.size() && is_name_char(text[length])) ++length;
      put(Token::Kind::name, std::string(text.substr(0, length)));
      skip(length);
      return {};
    }
    if (text[0] == '\'' || text[0] == '"') return take_string();
    for (const std::string_view op : kOperators)
      if (text.starts_with(op)) return take_operator(op);
    return fail(fmt::format("unexpected character '{}'", text.substr(0, next_utf8(text).length)));
  }

  Result<void> take_operator(std::string_view op) {
    if (op == "(" || op == "[" || op == "{") {
      open_ += op == "(" ? ')' : op == "[" ? ']' : '}';
    } else if (op == ")" || op == "]" || op == "}") {
      if (open_.empty()) return fail(fmt::format("unexpected '{}'", op));
      if (open_.back() != op[0]) return fail(fmt::format("unexpected '{}', expected '{}'", op, open_.back()));
      open_.pop_back();
    }
    put(Token::Kind::op, std::string(op));
    skip(op.size());
    return {};
  }

  // Digits with single underscores between them.
  static size_t digits_length(std::string_view text, std::string_view digits) {
    size_t length = 0;
    while (length < text.size()) {
      const size_t at = length + (length > 0 && text[length] == '_' ? 1 : 0);
      if (at >= text.size() || digits.find(text[at]) == std::string_view::npos) break;
      length = at + 1;
    }
    return length;
  }

  // The length of a fraction or exponent at the start of `text`, 0 when the number is an integer.
  static size_t real_tail_length(std::string_view text) {
    constexpr std::string_view kDigits = "0123456789";
    size_t length = 0;
    if (text.starts_with('.')) {
      const size_t fraction = digits_length(text.substr(1), kDigits);
      if (fraction > 0) length = 1 + fraction;
    }
    std::string_view tail = text.substr(length);
    if (!tail.starts_with('e') && !tail.starts_with('E')) return length;
    const size_t sign = tail.size() > 1 && (tail[1] == '+' || tail[1] == '-') ? 1 : 0;
    const size_t exponent = digits_length(tail.substr(1 + sign), kDigits);
    return exponent > 0 ? length + 1 + sign + exponent : length;
  }

  Result<void> take_number() {
    const std::string_view text = rest();
    size_t length = digits_length(text, "0123456789");
    const bool after_dot = pos_ > 0 && source_[pos_ - 1] == '.';
    Token::Kind kind = Token::Kind::integer;
    if (const size_t tail = after_dot ? 0 : real_tail_length(text.substr(length)); tail > 0) {
      kind = Token::Kind::real;
      length += tail;
    } else if (text[0] == '0') {
      // 0x1f, 0o17, 0b11; a decimal does not begin with 0.
      const char base = text.size() > 1 ? static_cast<char>(text[1] | 0x20) : '\0';
      const std::string_view digits = base == 'x'   ? "0123456789abcdefABCDEF"
                                      : base == 'o' ? "01234567"
                                      : base == 'b' ? "01"
                                                    : "";
      const size_t based = digits.empty() || text.size() < 3 ? 0 : digits_length(text.substr(2), digits);
      length = based > 0 ? 2 + based : digits_length(text, "0");
    }
    std::string number(text.substr(0, length));
    std::erase(number, '_');
    put(kind, std::move(number));
    skip(length);
    return {};
  }

  Result<void> take_string() {
    const std::string_view text = rest();
    size_t end = 1;
    while (end < text.size() && text[end] != text[0]) end += text[end] == '\\' ? 2 : 1;
    if (end >= text.size()) return fail("a string has no end");
    std::optional<std::string> decoded = unescape(text.substr(1, end - 1));
    if (!decoded) return fail("a string has an escape sequence that is not one");
    put(Token::Kind::string, *std::move(decoded));
    skip(end + 1);
    return {};
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what was read last ended with a newline
  std::string open_;           // the closing brackets that are due
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokenize_template(std::string_view source) { return Lexer(source).run(); }

Status template_error(int line, std::string_view message) {
  return {Code::invalid_argument, fmt::format("chat template, line {}: {}", line, message)};
}

}  // namespace guildhall::jinja
