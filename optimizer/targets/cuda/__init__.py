"""CUDA kernels as targets: built by NVRTC or nvcc, run on a GPU, or checked on the processor where there is none."""
