// Stands in for cuda_runtime.h, cuda_bf16.h and cuda_fp16.h where a .cu file is compiled as C++ for the CPU.
#pragma once

#include "emulate/collectives.h"
#include "emulate/host_api.h"
#include "emulate/intrinsics.h"
#include "emulate/types.h"
