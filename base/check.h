// check.h: a condition whose failure is a bug of ours; prints where and aborts.
#pragma once

#include <cstdio>
#include <cstdlib>

#define GH_CHECK(condition)                                                              \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
