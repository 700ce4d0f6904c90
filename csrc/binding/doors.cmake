# --- torch door. torch is asked for its folder through Python: find_package(Torch) would demand the CUDA toolkit
# of a CUDA build of torch. Never linked: libtorch_python, libtorch_cuda.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
if(NOT LLADA_MOE_OPS_TORCH_DIR)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE LLADA_MOE_OPS_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "torch is not installed for ${Python_EXECUTABLE}: type `pip install torch` first")
  endif()
endif()
file(GLOB LLADA_TORCH_SOURCES CONFIGURE_DEPENDS csrc/binding/torch/*.cpp)
set_source_files_properties(${LLADA_TORCH_SOURCES} PROPERTIES UNITY_GROUP cpu)
if(LLADA_CUDA)
  file(GLOB LLADA_TORCH_CUDA_SOURCES CONFIGURE_DEPENDS csrc/binding/torch/cuda/*.cpp)
  set_source_files_properties(${LLADA_TORCH_CUDA_SOURCES} PROPERTIES UNITY_GROUP cuda)
  list(APPEND LLADA_TORCH_SOURCES ${LLADA_TORCH_CUDA_SOURCES})
endif()
add_library(llada_moe_torch MODULE ${LLADA_TORCH_SOURCES})
# The files of a door are compiled together, in one or two units: most of the time of one alone goes into the headers of torch
# or pybind11 and into what they make the compiler generate anew in each.
set_target_properties(llada_moe_torch PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
target_compile_definitions(llada_moe_torch PRIVATE TORCH_TARGET_VERSION=0x020A000000000000)
target_include_directories(llada_moe_torch SYSTEM PRIVATE ${LLADA_MOE_OPS_TORCH_DIR}/include)
target_link_directories(llada_moe_torch PRIVATE ${LLADA_MOE_OPS_TORCH_DIR}/lib)
target_link_libraries(llada_moe_torch PRIVATE llada_moe_core torch_cpu)
set_target_properties(llada_moe_torch PROPERTIES CXX_VISIBILITY_PRESET hidden)
if(NOT LLADA_MOE_OPS_SANITIZE)
  # A missing symbol is an error of the build, not of the first import.
  target_link_options(llada_moe_torch PRIVATE -Wl,-z,defs)
endif()

# --- NumPy and DLPack door
execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
                OUTPUT_VARIABLE pybind11_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
find_package(pybind11 CONFIG QUIET)
file(GLOB LLADA_NUMPY_SOURCES CONFIGURE_DEPENDS csrc/binding/numpy/*.cpp)
if(pybind11_FOUND)
  pybind11_add_module(_C MODULE NO_EXTRAS ${LLADA_NUMPY_SOURCES})
else()
  # torch brings pybind11's headers
  Python_add_library(_C MODULE WITH_SOABI ${LLADA_NUMPY_SOURCES})
  target_include_directories(_C SYSTEM PRIVATE ${LLADA_MOE_OPS_TORCH_DIR}/include)
  set_target_properties(_C PROPERTIES CXX_VISIBILITY_PRESET hidden)
endif()
target_link_libraries(_C PRIVATE llada_moe_core)
set_target_properties(_C PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
target_compile_definitions(_C PRIVATE $<$<BOOL:${LLADA_CUDA}>:LLADA_CUDA>)

set_target_properties(llada_moe_core llada_moe_torch _C PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_OUTPUT_DIR})

# --- build facts, date-free so that builds are reproducible
file(STRINGS ${LLADA_MOE_OPS_TORCH_DIR}/version.py LLADA_TORCH_VERSION REGEX "^__version__ = ")
string(REGEX REPLACE "^__version__ = '([^']*)'.*" "\\1" LLADA_TORCH_VERSION "${LLADA_TORCH_VERSION}")
list(JOIN LLADA_FLAGS " " LLADA_FLAGS_TEXT)
list(JOIN LLADA_INSTRUCTION_SETS "\", \"" LLADA_INSTRUCTION_SETS_TEXT)
set(LLADA_CUDA_ARCHITECTURES_TEXT "")
foreach(architecture IN LISTS LLADA_CUDA_ARCHITECTURES)
  string(APPEND LLADA_CUDA_ARCHITECTURES_TEXT "\"${architecture}\", ")
endforeach()
string(STRIP "${LLADA_CUDA_ARCHITECTURES_TEXT}" LLADA_CUDA_ARCHITECTURES_TEXT)
configure_file(csrc/binding/build_info.py.in ${LLADA_MOE_OPS_OUTPUT_DIR}/_build_info.py @ONLY)
target_compile_definitions(_C PRIVATE
  LLADA_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
  LLADA_TORCH_VERSION="${LLADA_TORCH_VERSION}"
  LLADA_SANITIZE="${LLADA_MOE_OPS_SANITIZE}")
