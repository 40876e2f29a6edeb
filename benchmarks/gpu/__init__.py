"""Our kernels on a GPU beside the best dense and sparse ones of their vendor, in one process. See `__main__`."""
