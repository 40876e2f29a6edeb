"""Kernels for CUDA devices: TensorIR in the style of device code, by TVM to CUDA C++, by NVRTC to cubins. None of it needs a GPU."""
