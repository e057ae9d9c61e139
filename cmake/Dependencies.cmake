# Third-party libraries, all from the distribution's packages (deploy/packages.txt lists them).
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(Protobuf 3.21 REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(prometheus-cpp REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(HWLOC REQUIRED IMPORTED_TARGET hwloc)

# UCX: the system's, or UCX_ROOT's.
if(UCX_ROOT)
  find_library(UCP_LIBRARY ucp PATHS "${UCX_ROOT}/lib" NO_DEFAULT_PATH REQUIRED)
  find_library(UCS_LIBRARY ucs PATHS "${UCX_ROOT}/lib" NO_DEFAULT_PATH REQUIRED)
  find_path(UCP_INCLUDE ucp/api/ucp.h PATHS "${UCX_ROOT}/include" NO_DEFAULT_PATH REQUIRED)
else()
  find_library(UCP_LIBRARY ucp REQUIRED)
  find_library(UCS_LIBRARY ucs REQUIRED)
  find_path(UCP_INCLUDE ucp/api/ucp.h REQUIRED)
endif()
add_library(ucx INTERFACE)
target_include_directories(ucx SYSTEM INTERFACE "${UCP_INCLUDE}")
target_link_libraries(ucx INTERFACE "${UCP_LIBRARY}" "${UCS_LIBRARY}")

# CUDA and NCCL: found or not. Sanitizers' builds and the fuzzer's never have the device's part: their tests run
# its sources under the host emulation (tests/emulation).
find_package(CUDAToolkit QUIET)
find_library(NCCL_LIBRARY nccl HINTS "${CUDAToolkit_LIBRARY_DIR}")
set(GUILDHALL_HAS_CUDA OFF)
if(GUILDHALL_CUDA AND CUDAToolkit_NVCC_EXECUTABLE AND CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12
   AND NOT GUILDHALL_SANITIZE AND NOT GUILDHALL_FUZZ)
  set(GUILDHALL_HAS_CUDA ON)
  set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}" CACHE FILEPATH "")
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "")  # code for both, and PTX of 9.0 for what is newer
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CMAKE_CXX_COMPILER_LAUNCHER}")
  enable_language(CUDA)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # CMake 3.25 does not know it for this compiler
  set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -lineinfo")
endif()
message(STATUS "guildhall: CUDA ${CUDAToolkit_VERSION} (device code: ${GUILDHALL_HAS_CUDA}) NCCL ${NCCL_LIBRARY} UCX ${UCP_LIBRARY}")
