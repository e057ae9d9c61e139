// parser.h: tokens become statements, by Jinja's grammar. Statements and functions that chat templates have
// no use for (include, extends, import, block, call) are refused by name.
#pragma once

#include <string_view>

#include "base/status.h"
#include "model/chat_template/syntax.h"

namespace guildhall::jinja {

// `max_depth` bounds how deeply statements and expressions nest.
Result<Body> parse_template_text(std::string_view source, int max_depth);

}  // namespace guildhall::jinja
