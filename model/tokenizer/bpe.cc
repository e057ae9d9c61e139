#include "model/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <span>

#include "model/tokenizer/utf8.h"

namespace guildhall {
namespace json = boost::json;
namespace {

// Up to here scanning all pairs for the best merge is quicker than a heap.
constexpr size_t kShortSymbols = 64;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Link {
  int32_t id;
  int32_t previous, next;  // indices; -1: none
};

struct PairText {
  std::string_view left, right;
};

// "a b" or ["a", "b"].
std::optional<PairText> read_pair(const json::value& value) {
  if (const json::string* text = value.if_string()) {
    const std::string_view both(*text);
    const size_t space = both.find(' ');
    if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos)
      return std::nullopt;
    return PairText{both.substr(0, space), both.substr(space + 1)};
  }
  const json::array* list = value.if_array();
  if (list == nullptr || list->size() != 2 || !(*list)[0].is_string() || !(*list)[1].is_string())
    return std::nullopt;
  return PairText{(*list)[0].get_string(), (*list)[1].get_string()};
}

}  // namespace

// Ordered so that a max-heap gives the lowest rank, and the leftmost of equals.
struct Bpe::Candidate {
  Merge merge;
  int32_t left_idx;
  bool operator<(const Candidate& other) const {
    return merge.rank != other.merge.rank ? merge.rank > other.merge.rank : left_idx > other.left_idx;
  }
};

Result<Bpe> Bpe::read(const JsonObject& model) {
  GH_ASSIGN(const std::string type, model.text_or("type", "BPE"));
  if (type != "BPE")
    return model.error(Code::unsupported, "type", fmt::format("'{}' is not supported; supported: BPE", type));
  for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    GH_ASSIGN(const std::string text, model.text_or(affix, ""));
    if (!text.empty())
      return model.error(Code::unsupported, affix,
                         fmt::format("'{}' is not supported; supported: null", text));
  }
  GH_ASSIGN(const double dropout, model.real_or("dropout", 0, {0, 1}));
  if (dropout != 0)
    return model.error(Code::unsupported, "dropout",
                       "serving needs one encoding per text; supported: null or 0");
  Bpe bpe;
  GH_ASSIGN(bpe.ignore_merges_, model.boolean_or("ignore_merges", false));
  GH_ASSIGN(bpe.byte_fallback_, model.boolean_or("byte_fallback", false));
  GH_ASSIGN(bpe.fuse_unknown_, model.boolean_or("fuse_unk", false));
  GH_TRY(bpe.read_vocab(model));
  GH_TRY(bpe.read_merges(model));
  GH_TRY(bpe.read_unknown(model));
  return bpe;
}

Result<void> Bpe::read_vocab(const JsonObject& model) {
  const json::value* vocab = model.raw().if_contains("vocab");
  if (vocab == nullptr || !vocab->is_object())
    return model.error(Code::invalid_argument, "vocab", "must be an object of token: id");
  ids_.reserve(vocab->get_object().size());
  for (const auto& [token, value] : vocab->get_object()) {
    const int64_t* id = value.if_int64();
    if (id == nullptr || *id < 0 || *id >= kMaxVocab)
      return model.error(Code::invalid_argument, "vocab",
                         fmt::format("the id of token '{}' must be an integer from 0 to {}",
                                     std::string_view(token), kMaxVocab - 1));
    const size_t idx = static_cast<size_t>(*id);
    if (idx >= tokens_.size()) tokens_.resize(idx + 1);
    tokens_[idx] = token;
    ids_.emplace(token, static_cast<int32_t>(*id));
  }
  for (char32_t code = 0; code < low_char_ids_.size(); ++code) {
    std::string text;
    append_utf8(code, text);
    low_char_ids_[code] = token_to_id(text).value_or(-1);
  }
  for (unsigned byte = 0; byte < byte_ids_.size(); ++byte)
    byte_ids_[byte] = token_to_id(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  return {};
}

Result<void> Bpe::read_merges(const JsonObject& model) {
  const json::value* value = model.raw().if_contains("merges");
  if (value == nullptr || !value->is_array())
    return model.error(Code::invalid_argument, "merges", "must be a list of merges");
  const json::array& list = value->get_array();
  merges_.reserve(list.size());
  for (size_t rank = 0; rank < list.size(); ++rank) {
    const std::optional<PairText> pair = read_pair(list[rank]);
    if (!pair)
      return model.error(Code::invalid_argument, fmt::format("merges[{}]", rank),
                         R"(must be "a b" or ["a", "b"])");
    const std::string joined = fmt::format("{}{}", pair->left, pair->right);
    const std::optional<int32_t> left = token_to_id(pair->left), right = token_to_id(pair->right),
                                 merged = token_to_id(joined);
    if (!left || !right || !merged)
      return model.error(
          Code::invalid_argument, fmt::format("merges[{}]", rank),
          fmt::format("'{}', '{}' and '{}' must all be in vocab", pair->left, pair->right, joined));
    merges_.insert_or_assign(pair_key(*left, *right), Merge{static_cast<int32_t>(rank), *merged});
  }
  return {};
}

Result<void> Bpe::read_unknown(const JsonObject& model) {
  if (!model.has("unk_token")) return {};
  GH_ASSIGN(const std::string token, model.text("unk_token"));
  unknown_id_ = token_to_id(token);
  if (!unknown_id_)
    return model.error(Code::invalid_argument, "unk_token", fmt::format("'{}' is not in vocab", token));
  return {};
}

std::optional<int32_t> Bpe::token_to_id(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::string_view Bpe::token_text(int32_t id) const {
  return id >= 0 && id < size() ? std::string_view(tokens_[static_cast<size_t>(id)]) : std::string_view();
}

Bpe::Merge Bpe::find_merge(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? Merge{} : found->second;
}

std::optional<int32_t> Bpe::char_id(char32_t code, std::string_view text) const {
  if (code >= low_char_ids_.size()) return token_to_id(text);
  return low_char_ids_[code] < 0 ? std::nullopt : std::optional(low_char_ids_[code]);
}

// The bytes of a character outside the vocabulary as byte tokens; false, and nothing appended, if one is
// lacking.
bool Bpe::append_fallback(std::string_view character, std::vector<int32_t>& symbols) const {
  const auto id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char byte) { return id(byte) >= 0; }))
    return false;
  for (const char byte : character) symbols.push_back(id(byte));
  return true;
}

void Bpe::append_symbols(std::string_view piece, std::vector<int32_t>& symbols) const {
  bool unknown_pending =
      false;  // an unknown token not yet appended: the next unknown character may fuse into it
  while (!piece.empty()) {
    const Utf8Char next = next_utf8(piece);
    const std::string_view character = piece.substr(0, next.length);
    piece.remove_prefix(next.length);
    if (const std::optional<int32_t> id = char_id(next.code, character)) {
      if (std::exchange(unknown_pending, false)) symbols.push_back(*unknown_id_);
      symbols.push_back(*id);
    } else if (byte_fallback_ && append_fallback(character, symbols)) {
      continue;
    } else if (unknown_id_) {
      if (unknown_pending && !fuse_unknown_) symbols.push_back(*unknown_id_);
      unknown_pending = true;
    }
  }
  if (unknown_pending) symbols.push_back(*unknown_id_);
}

void Bpe::merge_short(std::vector<int32_t>& symbols) const {
  std::array<Merge, kShortSymbols> pairs;  // pairs[i]: symbols i and i + 1
  size_t count = symbols.size();
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = find_merge(symbols[i], symbols[i + 1]);
  while (count > 1) {
    const auto last = pairs.begin() + static_cast<std::ptrdiff_t>(count - 1);
    const auto best =
        std::min_element(pairs.begin(), last, [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (!best->possible()) break;
    const size_t idx = static_cast<size_t>(best - pairs.begin());
    symbols[idx] = best->id;
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(idx + 2),
              symbols.begin() + static_cast<std::ptrdiff_t>(count),
              symbols.begin() + static_cast<std::ptrdiff_t>(idx + 1));
    std::copy(best + 1, last, best);
    --count;
    if (idx > 0) pairs[idx - 1] = find_merge(symbols[idx - 1], symbols[idx]);
    if (idx + 1 < count) pairs[idx] = find_merge(symbols[idx], symbols[idx + 1]);
  }
  symbols.resize(count);
}

void Bpe::merge_long(std::vector<int32_t>& symbols) const {
  std::vector<Link> links(symbols.size());
  for (size_t i = 0; i < links.size(); ++i) {
    const int32_t idx = static_cast<int32_t>(i);
    links[i] = {symbols[i], idx - 1, i + 1 < links.size() ? idx + 1 : -1};
  }
  const auto link = [&](int32_t idx) -> Link& { return links[static_cast<size_t>(idx)]; };
  std::priority_queue<Candidate> heap;
  const auto consider = [&](int32_t left) {
    if (left < 0 || link(left).next < 0) return;
    const Merge merge = find_merge(link(left).id, link(link(left).next).id);
    if (merge.possible()) heap.push({merge, left});
  };
  for (size_t i = 0; i < links.size(); ++i) consider(static_cast<int32_t>(i));
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    Link& left = link(top.left_idx);
    if (left.id < 0 || left.next < 0) continue;  // merged away, or nothing to its right any more
    Link& right = link(left.next);
    const Merge now = find_merge(left.id, right.id);
    if (now.id != top.merge.id || now.rank != top.merge.rank) continue;  // its pair has changed since
    left.id = top.merge.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) link(left.next).previous = top.left_idx;
    consider(left.previous);
    consider(top.left_idx);
  }
  symbols.clear();
  for (int32_t idx = 0; idx >= 0; idx = link(idx).next) symbols.push_back(link(idx).id);
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (const std::optional<int32_t> whole = token_to_id(piece)) {
      ids.push_back(*whole);
      return;
    }
  }
  thread_local std::vector<int32_t> symbols;
  symbols.clear();
  append_symbols(piece, symbols);
  if (symbols.size() <= kShortSymbols)
    merge_short(symbols);
  else
    merge_long(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace guildhall
