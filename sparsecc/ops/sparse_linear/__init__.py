"""x Wᵀ + b with W in a sparse format."""
