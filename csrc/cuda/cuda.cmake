# --- CUDA kernels, inside the core. nvcc is called for each .cu by a custom command: enabling CMake's CUDA language
# would try to run a program on a GPU, which the machine that builds need not have.
#   X_sm80.cu  PTX of compute_80, so that any newer GPU runs it, and binaries for sm_90, where it also serves what
#              X_sm90.cu does not take, and the architectures of TORCH_CUDA_ARCH_LIST from 8.0 on, by default sm_80
#   X_sm90.cu  sm_90a alone
find_program(LLADA_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
set(LLADA_CUDA OFF)
if(NOT LLADA_MOE_OPS_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "LLADA_MOE_OPS_CUDA must be auto, on or off, got '${LLADA_MOE_OPS_CUDA}'")
elseif(LLADA_MOE_OPS_CUDA STREQUAL "on" AND NOT LLADA_NVCC)
  message(FATAL_ERROR "LLADA_MOE_OPS_CUDA=on needs nvcc: put it on PATH or set CUDA_HOME")
elseif(NOT LLADA_MOE_OPS_CUDA STREQUAL "off" AND LLADA_NVCC)
  set(LLADA_CUDA ON)
endif()

set(LLADA_SM80_ARCHITECTURES 80)
if(TORCH_CUDA_ARCH_LIST)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" LLADA_SM80_ARCHITECTURES "${TORCH_CUDA_ARCH_LIST}")
  list(FILTER LLADA_SM80_ARCHITECTURES EXCLUDE REGEX "^[1-7]\\.")
  if(NOT LLADA_SM80_ARCHITECTURES)
    message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST='${TORCH_CUDA_ARCH_LIST}' names no architecture from 8.0 on")
  endif()
  list(TRANSFORM LLADA_SM80_ARCHITECTURES REPLACE "\\." "")
endif()

set(LLADA_CUDA_ARCHITECTURES "")
set(LLADA_NVCC_VERSION "")
set_source_files_properties(csrc/cuda/launch_report.cpp PROPERTIES COMPILE_DEFINITIONS LLADA_CUDA_ARCHITECTURES="none")
if(NOT LLADA_CUDA)
  return()
endif()

execute_process(COMMAND ${LLADA_NVCC} --version OUTPUT_VARIABLE LLADA_NVCC_VERSION COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "V([0-9.]+)" _ "${LLADA_NVCC_VERSION}")
set(LLADA_NVCC_VERSION ${CMAKE_MATCH_1})
# The toolkit's folder as nvcc itself sees it: one installed by pip has lib, not lib64.
execute_process(COMMAND ${LLADA_NVCC} -dryrun x.cu ERROR_VARIABLE dry_run OUTPUT_QUIET)
string(REGEX MATCH "TOP=([^\n]*)" _ "${dry_run}")
find_library(LLADA_CUDART_STATIC cudart_static HINTS ${CMAKE_MATCH_1}/lib64 ${CMAKE_MATCH_1}/lib REQUIRED)

# --fmad=false: a product is rounded before the sum unless the source says fmaf, as in the CPU kernels and as in the
# emulation, whose bits a GPU must give.
set(LLADA_NVCC_FLAGS -O3 -std=c++20 --fmad=false -lineinfo -Werror all-warnings -Xptxas -v --threads 2
    -ccbin ${CMAKE_CXX_COMPILER} -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra)

# Adds OBJECT to `objects`, made from csrc/FOLDER/NAME.cu for the given -gencode options.
function(llada_compile_cuda source objects)
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(
    OUTPUT ${object}
    COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/compile.sh ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.ptxas.txt
            ${LLADA_NVCC} ${LLADA_NVCC_FLAGS} ${ARGN} -I ${CMAKE_CURRENT_SOURCE_DIR}/csrc
            -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d COMMENT "nvcc ${name}.cu" VERBATIM)
  set(${objects} ${${objects}} ${object} PARENT_SCOPE)
endfunction()

file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/cuda)
file(GLOB LLADA_CUDA_SOURCES CONFIGURE_DEPENDS csrc/*/*.cu)
set(LLADA_CUDA_OBJECTS "")
set(built compute_80)
foreach(source IN LISTS LLADA_CUDA_SOURCES)
  if(source MATCHES "_sm90\\.cu$")
    llada_compile_cuda(${source} LLADA_CUDA_OBJECTS -gencode=arch=compute_90a,code=sm_90a)
    list(APPEND built sm_90a)
    continue()
  endif()
  set(architectures ${LLADA_SM80_ARCHITECTURES} 90)
  list(REMOVE_DUPLICATES architectures)
  set(targets -gencode=arch=compute_80,code=compute_80)
  foreach(architecture IN LISTS architectures)
    list(APPEND targets -gencode=arch=compute_${architecture},code=sm_${architecture})
    list(APPEND built sm_${architecture})
  endforeach()
  llada_compile_cuda(${source} LLADA_CUDA_OBJECTS ${targets})
endforeach()
list(REMOVE_DUPLICATES built)
list(SORT built)
set(LLADA_CUDA_ARCHITECTURES ${built})
list(JOIN built ", " architectures_text)

file(GLOB LLADA_CUDA_HOST_SOURCES CONFIGURE_DEPENDS csrc/cuda/*.cpp csrc/*/*_cuda.cpp)
set_source_files_properties(csrc/cuda/launch_report.cpp PROPERTIES
  COMPILE_DEFINITIONS LLADA_CUDA_ARCHITECTURES="${architectures_text}")
target_compile_options(llada_moe_core PRIVATE ${LLADA_FLAGS})
target_sources(llada_moe_core PRIVATE ${LLADA_CUDA_HOST_SOURCES} ${LLADA_CUDA_OBJECTS})
# The runtime's names stay inside: a CUDA build of torch brings a runtime of its own, of another version.
target_link_libraries(llada_moe_core PRIVATE ${LLADA_CUDART_STATIC} ${CMAKE_DL_LIBS} rt)
target_link_options(llada_moe_core PRIVATE -Wl,--exclude-libs,libcudart_static.a)
message(STATUS "CUDA: nvcc ${LLADA_NVCC_VERSION} for ${architectures_text}")
