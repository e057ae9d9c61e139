// json_input.h: JSON from outside as values a template can read.
#pragma once

#include <boost/json/value.hpp>

#include "model/chat_template/runtime.h"

namespace guildhall::jinja {

// Errors: nested deeper than kMaxValueDepth, or an integer beyond 64 bits.
Result<Value> from_json(const boost::json::value& json);

}  // namespace guildhall::jinja
