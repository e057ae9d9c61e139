// byte_tokenizer.h: a tokenizer of the 256 bytes, id = byte: for models of random weights, which have no
// vocabulary.
#pragma once

#include <memory>

#include "model/tokenizer/tokenizer.h"

namespace guildhall {

std::unique_ptr<Tokenizer> make_byte_tokenizer();

}  // namespace guildhall
