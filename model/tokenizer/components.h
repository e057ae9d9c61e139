// components.h: the parts of tokenizer.json (normalizer, pre_tokenizer, post_processor, decoder) as flat
// lists.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/json_reader.h"
#include "model/tokenizer/regex.h"

namespace guildhall {

struct Component {
  std::string type;   // "NFC", "Split", ...
  JsonObject fields;  // borrows the parsed file; its errors name the file and the component's place in it

  // "tokenizer.json: pre_tokenizer.type: 'Punctuation' is not supported; supported: ..."
  Status unsupported(std::string_view supported) const;
};

// What stands under root[key]: nothing when null, one component, or a Sequence's (root[key][list_key])
// components in order, nested Sequences included.
Result<std::vector<Component>> read_components(const JsonObject& root, std::string_view key,
                                               std::string_view list_key);

// component.fields["pattern"]: {"String": text} or {"Regex": pattern}.
Result<Regex> read_pattern(const Component& component);

}  // namespace guildhall
