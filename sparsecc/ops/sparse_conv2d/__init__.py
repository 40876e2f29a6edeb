"""A 2-D convolution whose weight is in a sparse format."""
