#include "model/chat_template/value.h"

#include "model/chat_template/operators.h"

namespace guildhall::jinja {

const Value* Dict::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::find(const Value& key) const {
  if (const Text* text = key.as<Text>()) return find(text->view());
  for (const Entry& entry : entries_)
    if (same_scalar(entry.first, key)) return &entry.second;
  return nullptr;
}

void Dict::set(Value key, Value value) {
  if (const Value* old = find(key)) {
    *const_cast<Value*>(old) = std::move(value);
    return;
  }
  if (const Text* text = key.as<Text>()) index_.emplace(text->view(), entries_.size());
  entries_.emplace_back(std::move(key), std::move(value));
}

std::string what_is_missing(const Undefined& value) {
  return value.what ? *value.what : "the value is undefined";
}

std::string_view type_name(const Value& value) {
  struct Name {
    std::string_view operator()(const Undefined&) const { return "Undefined"; }
    std::string_view operator()(const None&) const { return "NoneType"; }
    std::string_view operator()(bool) const { return "bool"; }
    std::string_view operator()(int64_t) const { return "int"; }
    std::string_view operator()(double) const { return "float"; }
    std::string_view operator()(const Text&) const { return "str"; }
    std::string_view operator()(const SequencePtr& sequence) const {
      switch (sequence->kind) {
        case Sequence::Kind::list:
          return "list";
        case Sequence::Kind::tuple:
          return "tuple";
        case Sequence::Kind::range:
          return "range";
        case Sequence::Kind::generator:
          return "generator";
        case Sequence::Kind::view:
          return sequence->view_name;
      }
      return "list";
    }
    std::string_view operator()(const DictPtr&) const { return "dict"; }
    std::string_view operator()(const NamespacePtr&) const { return "namespace"; }
    std::string_view operator()(const LoopPtr&) const { return "loop"; }
    std::string_view operator()(const Callable& callable) const {
      return callable.macro ? "macro" : "function";
    }
  };
  return std::visit(Name{}, value.data);
}

bool truth(const Value& value) {
  struct Truth {
    bool operator()(const Undefined&) const { return false; }
    bool operator()(const None&) const { return false; }
    bool operator()(bool flag) const { return flag; }
    bool operator()(int64_t integer) const { return integer != 0; }
    bool operator()(double real) const { return real != 0; }
    bool operator()(const Text& text) const { return !text.view().empty(); }
    bool operator()(const SequencePtr& sequence) const {
      return sequence->kind == Sequence::Kind::generator || !sequence->items.empty();
    }
    bool operator()(const DictPtr& dict) const { return !dict->entries().empty(); }
    bool operator()(const NamespacePtr&) const { return true; }
    bool operator()(const LoopPtr&) const { return true; }
    bool operator()(const Callable&) const { return true; }
  };
  return std::visit(Truth{}, value.data);
}

bool read_integer(const Value& value, int64_t& integer) {
  if (const bool* flag = value.as<bool>()) {
    integer = *flag ? 1 : 0;
    return true;
  }
  if (const int64_t* number = value.as<int64_t>()) {
    integer = *number;
    return true;
  }
  return false;
}

bool read_number(const Value& value, Number& number) {
  if (const double* real = value.as<double>()) {
    number = {true, 0, *real};
    return true;
  }
  number.is_real = false;
  return read_integer(value, number.integer);
}

int nesting(const Value& value) {
  if (const SequencePtr* sequence = value.as<SequencePtr>()) return (*sequence)->depth;
  if (const DictPtr* dict = value.as<DictPtr>()) return (*dict)->depth;
  return 0;
}

bool is_hashable(const Value& value) { return !value.is<DictPtr>() && !value.is<SequencePtr>(); }

}  // namespace guildhall::jinja
