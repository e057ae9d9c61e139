# What every target of ours is compiled with. Instruction sets are never set here: kernels choose at run time.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
endif()

if(GUILDHALL_SANITIZE)
  add_compile_options(-O1 -fsanitize=${GUILDHALL_SANITIZE} -fno-omit-frame-pointer)
  if(GUILDHALL_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)  # a finding ends its test
  endif()
  add_link_options(-fsanitize=${GUILDHALL_SANITIZE})
endif()

# For folders whose headers keep the compiler busy (googletest, Boost.Beast), and which compute nothing: with sanitizers,
# optimising takes more than half of its time.
macro(guildhall_sanitized_optimisation level)
  if(GUILDHALL_SANITIZE)
    add_compile_options(${level})
  endif()
endmacro()

# Coverage in every library, which is what libFuzzer steers by; only the targets' own files are its main program.
if(GUILDHALL_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "GUILDHALL_FUZZ needs clang: use the preset fuzz, or -DCMAKE_CXX_COMPILER=clang++")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

# guildhall_library(NAME SOURCES ... LINKS ...): the folder's one target, named guildhall_NAME.
function(guildhall_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_library(guildhall_${name} STATIC ${ARG_SOURCES})
  target_include_directories(guildhall_${name} PUBLIC "${CMAKE_SOURCE_DIR}")
  target_link_libraries(guildhall_${name} PUBLIC ${ARG_LINKS})
  guildhall_warnings(guildhall_${name})
endfunction()

function(guildhall_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wno-missing-field-initializers
                                           $<$<BOOL:${GUILDHALL_WERROR}>:-Werror>)
endfunction()
