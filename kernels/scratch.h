// scratch.h: a thread's working memory for packed blocks, kept from one task to the next.
#pragma once

#include <cstdint>

namespace guildhall {

// At least num_floats floats, 64-byte aligned, this thread's until its next call. Allocates only when a
// thread asks for more than it ever did, so a warmed-up step allocates nothing.
float* thread_scratch(int64_t num_floats);

}  // namespace guildhall
