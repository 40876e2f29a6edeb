"""Kernels for CUDA devices, one file each: `space` says which knobs there are, `prepare` lays the weights out, `build` generates code."""
