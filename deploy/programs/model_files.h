// model_files.h: what both daemons read from a checkpoint before they start anything: its spec; the router
// also its tokenizer. Small and fast; weights come later.
#pragma once

#include <memory>

#include "model/spec.h"
#include "model/tokenizer/tokenizer.h"
#include "proto/config.pb.h"

namespace guildhall {

Result<ModelSpec> read_spec(const config::Config& config);

// Refuses a tokenizer with more ids than the model's vocabulary. A model of random weights (model.load:
// dummy) may lack one: its tokens are then bytes.
Result<std::unique_ptr<Tokenizer>> read_tokenizer(const config::Config& config, const ModelSpec& spec);

}  // namespace guildhall
