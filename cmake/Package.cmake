# What `cmake --install` puts below its prefix and `cpack --preset release` into a tarball: programs that find their
# libraries relative to themselves, the demo and the documentation (deploy/BUNDLE.md).

# guildhall_relocatable(TARGET...): they look for libraries beside themselves, on behalf of the libraries there as well.
# That is what the older form of the run path does, which is why it is asked for. The build's is the same: CMake would
# fill it up with empty folders, which mean the current one; but UCX_ROOT's folder must be in it.
function(guildhall_relocatable)
  foreach(target ${ARGN})
    set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/guildhall:$ORIGIN/../lib/guildhall/cuda")
    target_link_options(${target} PRIVATE LINKER:--disable-new-dtags)
    if(NOT UCX_ROOT)
      set_target_properties(${target} PROPERTIES BUILD_WITH_INSTALL_RPATH ON)
    endif()
  endforeach()
endfunction()

# guildhall_bundle_libraries(TARGET... [of install(CODE)]): what they load is installed with them.
function(guildhall_bundle_libraries)
  cmake_parse_arguments(ARG "EXCLUDE_FROM_ALL" "COMPONENT" "" ${ARGN})
  list(TRANSFORM ARG_UNPARSED_ARGUMENTS REPLACE "(.+)" "\"$<TARGET_FILE:\\1>\"")
  list(JOIN ARG_UNPARSED_ARGUMENTS " " files)
  set(component)
  if(ARG_COMPONENT)
    set(component COMPONENT ${ARG_COMPONENT})
  endif()
  if(ARG_EXCLUDE_FROM_ALL)
    list(APPEND component EXCLUDE_FROM_ALL)
  endif()
  install(CODE "execute_process(
    COMMAND \"${CMAKE_SOURCE_DIR}/deploy/bundle-libraries\" \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\" ${files}
    COMMAND_ERROR_IS_FATAL ANY)" ${component})
endfunction()

set(GUILDHALL_PROGRAMS guildhall guildhall-router guildhall-expert)
guildhall_relocatable(${GUILDHALL_PROGRAMS})
install(TARGETS ${GUILDHALL_PROGRAMS} RUNTIME DESTINATION bin)
guildhall_bundle_libraries(${GUILDHALL_PROGRAMS})

install(FILES README.md CHANGELOG.md LICENSE deploy/BUNDLE.md deploy/demo.yaml DESTINATION share/guildhall)
install(DIRECTORY docs DESTINATION share/guildhall)
install(DIRECTORY deploy/demo-model DESTINATION share/guildhall
        FILES_MATCHING PATTERN "*.json" PATTERN "*.safetensors" PATTERN "README.md")

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_FILE_NAME "guildhall-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_PACKAGE_DIRECTORY "${CMAKE_BINARY_DIR}")
set(CPACK_STRIP_FILES ON)
include(CPack)
