#include "model/chat_template/json_input.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

namespace guildhall::jinja {
namespace {

namespace json = boost::json;

Result<Value> convert(const json::value& json, int levels_left);

Result<Value> convert_list(const json::array& array, int levels_left) {
  auto list = std::make_shared<Sequence>();
  list->items.reserve(array.size());
  for (const json::value& item : array) {
    GH_ASSIGN(Value value, convert(item, levels_left - 1));
    list->depth = std::max(list->depth, nesting(value) + 1);
    list->items.push_back(std::move(value));
  }
  return Value{std::move(list)};
}

Result<Value> convert_object(const json::object& object, int levels_left) {
  auto dict = std::make_shared<Dict>();
  for (const auto& entry : object) {
    GH_ASSIGN(Value value, convert(entry.value(), levels_left - 1));
    dict->depth = std::max(dict->depth, nesting(value) + 1);
    dict->set(make_text(std::string(entry.key())), std::move(value));
  }
  return Value{std::move(dict)};
}

Result<Value> convert(const json::value& json, int levels_left) {
  if (levels_left == 0)
    return failure(fmt::format("a value for the chat template nests deeper than {} levels", kMaxValueDepth));
  switch (json.kind()) {
    case json::kind::null:
      return Value{None{}};
    case json::kind::bool_:
      return Value{json.get_bool()};
    case json::kind::int64:
      return Value{json.get_int64()};
    case json::kind::uint64:
      return failure("an integer for the chat template does not fit 64 bits with a sign");
    case json::kind::double_:
      return Value{json.get_double()};
    case json::kind::string:
      return make_text(std::string(json.get_string()));
    case json::kind::array:
      return convert_list(json.get_array(), levels_left);
    case json::kind::object:
      return convert_object(json.get_object(), levels_left);
  }
  return Value{None{}};
}

}  // namespace

Result<Value> from_json(const json::value& json) { return convert(json, kMaxValueDepth); }

}  // namespace guildhall::jinja
