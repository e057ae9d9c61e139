#include "model/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace json = boost::json;
namespace {

// The whole character that ends at `end`.
std::string_view char_before(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && is_continuation_byte(text[begin])) --begin;
  return text.substr(begin, end - begin);
}

size_t skip_space_before(std::string_view text, size_t begin, size_t stop) {
  while (begin > stop) {
    const std::string_view last = char_before(text, begin);
    if (!is_white_space(next_utf8(last).code)) break;
    begin -= last.size();
  }
  return begin;
}

size_t skip_space_after(std::string_view text, size_t end) {
  while (end < text.size()) {
    const Utf8Char next = next_utf8(text.substr(end));
    if (!is_white_space(next.code)) break;
    end += next.length;
  }
  return end;
}

Result<AddedToken> read_token(const JsonObject& object) {
  AddedToken token;
  GH_ASSIGN(const int64_t id, object.integer("id", {0, kMaxVocab - 1}));
  token.id = static_cast<int32_t>(id);
  GH_ASSIGN(token.content, object.text("content"));
  GH_ASSIGN(token.special, object.boolean_or("special", false));
  GH_ASSIGN(token.lstrip, object.boolean_or("lstrip", false));
  GH_ASSIGN(token.rstrip, object.boolean_or("rstrip", false));
  GH_ASSIGN(token.single_word, object.boolean_or("single_word", false));
  GH_ASSIGN(token.normalized, object.boolean_or("normalized", !token.special));
  return token;
}

}  // namespace

void AddedTokens::Trie::add(std::string_view text, int32_t idx) {
  if (text.empty()) return;
  starts[static_cast<unsigned char>(text[0])] = true;
  int32_t node = 0;
  for (const char byte : text) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
    const auto [child, is_new] = children.try_emplace(edge, static_cast<int32_t>(token_idx.size()));
    node = child->second;
    if (is_new) token_idx.push_back(-1);
  }
  int32_t& slot = token_idx[static_cast<size_t>(node)];
  if (slot < 0) slot = idx;
}

Result<AddedTokens> AddedTokens::read(const JsonObject& root, const Bpe& bpe, const Normalizer& normalizer) {
  AddedTokens added;
  // Here, unlike in patterns, the joiners count as parts of words.
  GH_ASSIGN(added.word_char_, Regex::compile(R"([\w\x{200c}\x{200d}])"));
  if (!root.has("added_tokens")) return added;
  const json::value& list = root.raw().at("added_tokens");
  if (!list.is_array()) return root.error(Code::invalid_argument, "added_tokens", "must be a list of tokens");
  for (size_t i = 0; i < list.get_array().size(); ++i) {
    const json::value& item = list.get_array()[i];
    const std::string place = fmt::format("added_tokens[{}]", i);
    if (!item.is_object()) return root.error(Code::invalid_argument, place, "is not an object");
    const std::string where = root.error(Code::internal, place, "").message;  // "<file>: <place>: "
    GH_ASSIGN(AddedToken token,
              read_token(JsonObject(item.get_object(), where.substr(0, where.size() - 2) + ".")));
    if (token.content.empty()) continue;
    // A token the model knows keeps the model's id.
    token.id = bpe.token_to_id(token.content).value_or(token.id);
    token.spelling = token.normalized ? normalizer.apply(token.content) : token.content;
    if (!added.by_content_.try_emplace(token.content, added.tokens_.size()).second) continue;
    const Stage stage = token.normalized ? Stage::after_normalizing : Stage::before_normalizing;
    added.tries_[static_cast<size_t>(stage)].add(token.spelling, static_cast<int32_t>(added.tokens_.size()));
    added.tokens_.push_back(std::move(token));
  }
  return added;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

std::optional<AddedTokens::Match> AddedTokens::find_next(const Trie& trie, std::string_view text,
                                                         size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!trie.starts[static_cast<unsigned char>(text[begin])]) continue;
    std::optional<Match> longest;
    int32_t node = 0;
    for (size_t end = begin; end < text.size(); ++end) {
      const auto child =
          trie.children.find(static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(text[end]));
      if (child == trie.children.end()) break;
      node = child->second;
      const int32_t idx = trie.token_idx[static_cast<size_t>(node)];
      if (idx >= 0) longest = Match{&tokens_[static_cast<size_t>(idx)], {begin, end + 1}};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

bool AddedTokens::stands_alone(std::string_view text, ByteSpan span) const {
  std::vector<ByteSpan> matches;
  if (span.begin > 0) {
    word_char_.find_all(char_before(text, span.begin), matches);
    if (!matches.empty()) return false;
  }
  if (span.end < text.size()) {
    word_char_.find_all(text.substr(span.end, next_utf8(text.substr(span.end)).length), matches);
    if (!matches.empty()) return false;
  }
  return true;
}

void AddedTokens::split(std::string_view text, Stage stage, bool parse_special,
                        std::vector<Segment>& segments) const {
  segments.clear();
  const Trie& trie = tries_[static_cast<size_t>(stage)];
  size_t done = 0;  // end of the last segment
  size_t from = 0;  // where to look on; less than done when a token took white space after it
  while (const std::optional<Match> match = find_next(trie, text, from)) {
    from = match->span.end;
    const AddedToken& token = *match->token;
    if (token.special && !parse_special) continue;
    if (token.single_word && !stands_alone(text, match->span)) continue;
    ByteSpan span = match->span;
    if (token.lstrip) span.begin = skip_space_before(text, span.begin, done);
    if (token.rstrip) span.end = skip_space_after(text, span.end);
    if (done < span.begin) segments.push_back({{done, span.begin}, std::nullopt});
    segments.push_back({span, token.id});
    done = span.end;
  }
  if (done < text.size()) segments.push_back({{done, text.size()}, std::nullopt});
}

}  // namespace guildhall
