# What `cmake --install` puts below its prefix and `cpack --preset release` into a tarball: programs that find their
# libraries relative to themselves, the demo and the documentation (deploy/BUNDLE.md).

# guildhall_relocatable(TARGET...): they look for libraries beside themselves, on behalf of the libraries there as well.
# That is what the older form of the run path does, which is why it is asked for.
function(guildhall_relocatable)
  foreach(target ${ARGN})
    set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/guildhall:$ORIGIN/../lib/guildhall/cuda")
    target_link_options(${target} PRIVATE LINKER:--disable-new-dtags)
  endforeach()
endfunction()

set(programs guildhall guildhall-router guildhall-expert)
guildhall_relocatable(${programs})
install(TARGETS ${programs} RUNTIME DESTINATION bin)
foreach(program ${programs})
  list(APPEND program_files "\"$<TARGET_FILE:${program}>\"")
endforeach()
list(JOIN program_files " " program_files)
install(CODE "execute_process(
  COMMAND \"${CMAKE_SOURCE_DIR}/deploy/bundle-libraries\" \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\" ${program_files}
  COMMAND_ERROR_IS_FATAL ANY)")

install(FILES README.md CHANGELOG.md LICENSE deploy/BUNDLE.md deploy/demo.yaml DESTINATION share/guildhall)
install(DIRECTORY docs DESTINATION share/guildhall)
install(DIRECTORY deploy/demo-model DESTINATION share/guildhall
        FILES_MATCHING PATTERN "*.json" PATTERN "*.safetensors" PATTERN "README.md")

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_FILE_NAME "guildhall-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_PACKAGE_DIRECTORY "${CMAKE_BINARY_DIR}")
set(CPACK_STRIP_FILES ON)
include(CPack)
