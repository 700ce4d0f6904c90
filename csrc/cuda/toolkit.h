// CUDA's own headers, or the emulator's stand-in for them.
#pragma once

#ifdef LLADA_EMULATE
#include "emulate/toolkit.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif
