// host_device.h: marks a function that kernels call as well as the host. Nothing where no CUDA compiler reads
// it (the host, and the kernels' emulation on the host).
#pragma once

#ifdef __CUDACC__
#define GH_HOST_DEVICE __host__ __device__
#else
#define GH_HOST_DEVICE
#endif
