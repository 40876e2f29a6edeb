"""x Wᵀ + b with W a product of factors."""
