#include "base/lazy_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace guildhall {

void lazy_function_called_too_early() {
  std::fprintf(stderr, "a function of a shared library was called before load_library() opened it\n");
  std::abort();
}

Result<void> load_library(const LazyLibrary& library, std::span<const LazyFunction> functions) {
  void* handle = dlopen(library.soname, RTLD_NOW | RTLD_LOCAL);
  const std::string why = handle == nullptr ? dlerror() : "";
  if (handle == nullptr)
    handle =
        dlopen(fmt::format("{}/{}", library.usual_folder, library.soname).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return Status{Code::not_found,
                  fmt::format("{} cannot be loaded ({}); {}", library.soname, why, library.remedy)};
  for (const LazyFunction& function : functions) {
    void* const address = dlsym(handle, function.name);
    if (address == nullptr)
      return Status{Code::not_found, fmt::format("{} has no {}: it is of another version; {}", library.soname,
                                                 function.name, library.remedy)};
    *function.address = address;
  }
  return {};
}

}  // namespace guildhall
