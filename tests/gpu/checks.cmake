# What tests/gpu/pack adds to the bundle for a machine that has a GPU: every test labelled gpu, CUDA's benchmarks, their
# data, and run-gpu-checks, which runs them there.
get_property(gpu_programs GLOBAL PROPERTY GUILDHALL_GPU_TESTS)
if(NOT gpu_programs)
  add_custom_target(gpu_checks COMMAND ${CMAKE_COMMAND} -E false COMMENT
    "gpu_checks: this build has no test for a GPU: CUDA's toolkit was not found, or sanitizers are on")
  return()
endif()
get_property(benchmarks DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/bench" PROPERTY BUILDSYSTEM_TARGETS)
list(FILTER benchmarks INCLUDE REGEX "^cuda_.*_bench$")
list(APPEND gpu_programs ${benchmarks})

guildhall_relocatable(${gpu_programs})
add_custom_target(gpu_checks DEPENDS ${GUILDHALL_PROGRAMS} ${gpu_programs})
install(TARGETS ${gpu_programs} RUNTIME DESTINATION bin COMPONENT gpu_checks EXCLUDE_FROM_ALL)
guildhall_bundle_libraries(${GUILDHALL_PROGRAMS} ${gpu_programs} COMPONENT gpu_checks EXCLUDE_FROM_ALL)
install(DIRECTORY golden/data DESTINATION share/guildhall/tests/golden COMPONENT gpu_checks EXCLUDE_FROM_ALL)
install(DIRECTORY bench/models DESTINATION share/guildhall/tests/bench COMPONENT gpu_checks EXCLUDE_FROM_ALL)
file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/cuda-libraries" "libcublas.so.${CUDAToolkit_VERSION_MAJOR}\nlibcublasLt.so.${CUDAToolkit_VERSION_MAJOR}\nlibnccl.so.2\n")
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/cuda-libraries" DESTINATION share/guildhall COMPONENT gpu_checks EXCLUDE_FROM_ALL)
install(PROGRAMS gpu/run-gpu-checks DESTINATION . COMPONENT gpu_checks EXCLUDE_FROM_ALL)
