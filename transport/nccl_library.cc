// nccl_library.cc: NCCL's functions for programs that must start where it is missing. The first
// ncclGetVersion(), ncclGetUniqueId() or ncclCommInitRankConfig() opens the library. A function that is not
// in the list yet is an undefined reference when linking.
#include <nccl.h>

#include "base/lazy_library.h"

// clang-format off
#define GH_NCCL_FUNCTIONS(X)                                                                                 \
  X(ncclAllReduce) X(ncclCommAbort) X(ncclCommGetAsyncError) X(ncclCommRevoke) X(ncclCommShrink)             \
  X(ncclGroupStart) X(ncclGroupEnd) X(ncclRecv) X(ncclSend)
GH_NCCL_FUNCTIONS(GH_LAZY_FUNCTION)
// clang-format on

namespace guildhall {
namespace {

constexpr LazyLibrary kLibrary = {
    "libnccl.so." GH_LAZY_QUOTED(NCCL_MAJOR), "/usr/local/cuda/lib64",
    "NVIDIA's package libnccl2 or pip's nvidia-nccl has it: name its folder in LD_LIBRARY_PATH"};

struct Nccl {
  Result<void> loaded;
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&ncclGetErrorString) get_error_string = nullptr;
  decltype(&ncclGetLastError) get_last_error = nullptr;
};

const Nccl& nccl() {
  static const Nccl library = [] {
    Nccl made;
    const LazyFunction functions[] = {
        {"ncclGetVersion", reinterpret_cast<void**>(&made.get_version)},
        {"ncclGetUniqueId", reinterpret_cast<void**>(&made.get_unique_id)},
        {"ncclCommInitRankConfig", reinterpret_cast<void**>(&made.comm_init_rank_config)},
        {"ncclGetErrorString", reinterpret_cast<void**>(&made.get_error_string)},
        {"ncclGetLastError", reinterpret_cast<void**>(&made.get_last_error)},
        GH_NCCL_FUNCTIONS(GH_LAZY_ROW)};
    made.loaded = load_library(kLibrary, functions);
    return made;
  }();
  return library;
}

}  // namespace
}  // namespace guildhall

using guildhall::nccl;

ncclResult_t ncclGetVersion(int* version) {
  return nccl().loaded.has_error() ? ncclSystemError : nccl().get_version(version);
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return nccl().loaded.has_error() ? ncclSystemError : nccl().get_unique_id(id);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return nccl().loaded.has_error() ? ncclSystemError
                                   : nccl().comm_init_rank_config(comm, num_ranks, id, rank, config);
}

const char* ncclGetErrorString(ncclResult_t result) {
  return nccl().loaded.has_error() ? "NCCL is not loaded" : nccl().get_error_string(result);
}

// Where NCCL is missing, this is why.
const char* ncclGetLastError(ncclComm_t comm) {
  return nccl().loaded.has_error() ? nccl().loaded.error().message.c_str() : nccl().get_last_error(comm);
}
