# The CUDA sources as C++ on this CPU: the emulator, every kernel, and the emulator's own tests. Tests only; nothing of it is
# installed.
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  message(FATAL_ERROR "LLADA_MOE_OPS_EMULATE: the emulator's context switch is written for x86-64")
endif()
set(LLADA_MOE_OPS_EMULATE_DIR "${CMAKE_CURRENT_SOURCE_DIR}/build/emulate" CACHE PATH "Where the emulated binaries go")

# Compiles .cu files as C++ in `target`.
function(llada_emulated_sources target)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++;-Wno-unknown-pragmas")
  target_sources(${target} PRIVATE ${ARGN})
endfunction()

# --- the runtime. TSan must not see its own memory accesses, only what it announces; memory_access.cpp makes the accesses
# that belong to the kernel.
file(GLOB LLADA_EMULATE_SOURCES CONFIGURE_DEPENDS csrc/emulate/*.cpp)
add_library(llada_moe_emulate_runtime OBJECT ${LLADA_EMULATE_SOURCES})
target_include_directories(llada_moe_emulate_runtime PUBLIC csrc)
target_compile_options(llada_moe_emulate_runtime PRIVATE ${LLADA_FLAGS})
if(LLADA_MOE_OPS_SANITIZE STREQUAL "thread")
  list(REMOVE_ITEM LLADA_EMULATE_SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/csrc/emulate/memory_access.cpp)
  set_source_files_properties(${LLADA_EMULATE_SOURCES} PROPERTIES COMPILE_OPTIONS 
    "-fno-sanitize=thread;-fno-tree-loop-distribute-patterns;-DLLADA_EMULATE_TSAN")
endif()

# --- every kernel, and the ops' entries to them. Names are hidden, so that they stand beside the core's own of the same name.
file(GLOB LLADA_EMULATED_KERNELS CONFIGURE_DEPENDS csrc/*/*_sm80.cu csrc/*/*_sm90.cu csrc/cuda/*.cu)
file(GLOB LLADA_EMULATED_ENTRIES CONFIGURE_DEPENDS csrc/cuda/*.cpp csrc/*/*_cuda.cpp)
add_library(llada_moe_emulate STATIC ${LLADA_EMULATED_ENTRIES} $<TARGET_OBJECTS:llada_moe_emulate_runtime>)
target_include_directories(llada_moe_emulate PUBLIC csrc)
target_compile_definitions(llada_moe_emulate PUBLIC LLADA_EMULATE)
target_compile_options(llada_moe_emulate PRIVATE ${LLADA_FLAGS})
set_target_properties(llada_moe_emulate PROPERTIES CXX_VISIBILITY_PRESET hidden)
llada_emulated_sources(llada_moe_emulate ${LLADA_EMULATED_KERNELS})

# --- the emulator's own tests
set(LLADA_MICRO_KERNELS tests/emulate/micro_kernels_sm80.cu tests/emulate/micro_kernels_sm90.cu)
add_library(llada_moe_micro_kernels MODULE tests/emulate/control.cpp $<TARGET_OBJECTS:llada_moe_emulate_runtime>)
target_include_directories(llada_moe_micro_kernels PRIVATE csrc)
target_compile_definitions(llada_moe_micro_kernels PRIVATE LLADA_EMULATE)
target_compile_options(llada_moe_micro_kernels PRIVATE ${LLADA_FLAGS})
llada_emulated_sources(llada_moe_micro_kernels ${LLADA_MICRO_KERNELS})
set_target_properties(llada_moe_micro_kernels PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_EMULATE_DIR}
                                                         CXX_VISIBILITY_PRESET hidden)

# ... and by nvcc, for a GPU to be compared with the emulator (make gpu-check)
if(LLADA_CUDA)
  set(LLADA_MICRO_KERNEL_OBJECTS "")
  set(targets -gencode=arch=compute_80,code=compute_80 -gencode=arch=compute_80,code=sm_80)
  llada_compile_cuda(${CMAKE_CURRENT_SOURCE_DIR}/tests/emulate/micro_kernels_sm80.cu LLADA_MICRO_KERNEL_OBJECTS ${targets}
                     -gencode=arch=compute_90,code=sm_90)
  llada_compile_cuda(${CMAKE_CURRENT_SOURCE_DIR}/tests/emulate/micro_kernels_sm90.cu LLADA_MICRO_KERNEL_OBJECTS
                     -gencode=arch=compute_90a,code=sm_90a)
  add_library(llada_moe_micro_kernels_cuda MODULE ${LLADA_MICRO_KERNEL_OBJECTS})
  target_link_libraries(llada_moe_micro_kernels_cuda PRIVATE ${LLADA_CUDART_STATIC} ${CMAKE_DL_LIBS} Threads::Threads rt)
  set_target_properties(llada_moe_micro_kernels_cuda PROPERTIES LINKER_LANGUAGE CXX
                                                                LIBRARY_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_EMULATE_DIR})
endif()

add_executable(planted_faults tests/emulate/planted_faults.cpp $<TARGET_OBJECTS:llada_moe_emulate_runtime>)
target_include_directories(planted_faults PRIVATE csrc ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(planted_faults PRIVATE LLADA_EMULATE)
target_compile_options(planted_faults PRIVATE ${LLADA_FLAGS})
llada_emulated_sources(planted_faults tests/emulate/sort_subject.cu tests/emulate/product_subject_sm80.cu
                       tests/emulate/product_subject_sm90.cu tests/emulate/broken_rules.cu)
set_target_properties(planted_faults PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_EMULATE_DIR})

# --- every op's kernels without torch, for the sanitizers
add_executable(op_kernels EXCLUDE_FROM_ALL tests/emulate/op_kernels.cpp)
target_include_directories(op_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(op_kernels PRIVATE llada_moe_emulate llada_moe_core_static)
set_target_properties(op_kernels PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_EMULATE_DIR})

# --- what the ops' entries refuse
add_executable(size_limits tests/emulate/size_limits.cpp)
target_link_libraries(size_limits PRIVATE llada_moe_emulate llada_moe_core_static)
set_target_properties(size_limits PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_EMULATE_DIR})
