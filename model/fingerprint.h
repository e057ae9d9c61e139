// fingerprint.h: one number for a model's shapes, so that a router and a worker notice that they were given
// different checkpoints.
#pragma once

#include <cstdint>

#include "model/spec.h"

namespace guildhall {

// Equal specs have equal fingerprints, on every machine.
uint64_t fingerprint(const ModelSpec& spec);

}  // namespace guildhall
