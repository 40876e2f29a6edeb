"""What several CUDA kernels are made of."""
