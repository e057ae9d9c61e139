// lazy_library.h: a shared library that a machine may lack. The program does not list it among what the
// loader must find before main(): GH_LAZY_FUNCTION defines each function as a jump through a pointer, which
// load_library() fills.
#pragma once

#include <span>

#include "base/status.h"

namespace guildhall {

struct LazyFunction {
  const char* name;
  void** address;  // what the jump reads
};

struct LazyLibrary {
  const char* soname;
  const char* usual_folder;  // where it is on machines whose loader does not look there; "": nowhere
  const char* remedy;        // who has it, for the error
};

// Opens the library where the loader looks (the program's run path, LD_LIBRARY_PATH, the system's folders),
// then in its usual folder, and points every function at it. not_found with the loader's words and the
// remedy, or naming the function that it lacks. Not to be called from two threads at once; the library stays
// open until the process ends.
Result<void> load_library(const LazyLibrary& library, std::span<const LazyFunction> functions);

// Where jumps go until then: ends the process.
[[noreturn]] void lazy_function_called_too_early();

}  // namespace guildhall

// Defines the C function `name`, whatever its signature: a jump leaves all arguments where they are.
#define GH_LAZY_FUNCTION(name)                                                                \
  extern "C" {                                                                                \
  extern void* gh_lazy_##name;                                                                \
  void* gh_lazy_##name = reinterpret_cast<void*>(&guildhall::lazy_function_called_too_early); \
  }                                                                                           \
  asm(".pushsection .text\n.globl " #name "\n.type " #name ", @function\n" #name              \
      ":\n"                                                                                   \
      "  endbr64\n  jmp *gh_lazy_" #name "(%rip)\n.size " #name ", . - " #name "\n.popsection");

// A macro's value as a string literal: for the version in a soname.
#define GH_LAZY_QUOTED_INNER(x) #x
#define GH_LAZY_QUOTED(x) GH_LAZY_QUOTED_INNER(x)

// Its row of the table for load_library().
#define GH_LAZY_ROW(name) guildhall::LazyFunction{#name, &gh_lazy_##name},
