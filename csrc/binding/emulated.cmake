# --- torch.ops.llada_moe_emulated: the CUDA kernels on CPU tensors, for tests.
file(GLOB LLADA_EMULATED_SOURCES CONFIGURE_DEPENDS csrc/binding/torch/cuda/*.cpp)
add_library(llada_moe_emulated MODULE ${LLADA_EMULATED_SOURCES})
target_compile_definitions(llada_moe_emulated PRIVATE TORCH_TARGET_VERSION=0x020A000000000000)
target_include_directories(llada_moe_emulated SYSTEM PRIVATE ${LLADA_MOE_OPS_TORCH_DIR}/include)
target_link_directories(llada_moe_emulated PRIVATE ${LLADA_MOE_OPS_TORCH_DIR}/lib)
target_link_libraries(llada_moe_emulated PRIVATE llada_moe_emulate llada_moe_core torch_cpu)
set_target_properties(llada_moe_emulated PROPERTIES
  UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0
  CXX_VISIBILITY_PRESET hidden LIBRARY_OUTPUT_DIRECTORY ${LLADA_MOE_OPS_EMULATE_DIR} BUILD_RPATH ${LLADA_MOE_OPS_OUTPUT_DIR} BUILD_WITH_INSTALL_RPATH OFF)
