// Marks functions that CUDA kernels call as well.
#pragma once

#ifdef __CUDACC__
#define LLADA_HOST_DEVICE __host__ __device__
#else
#define LLADA_HOST_DEVICE
#endif
