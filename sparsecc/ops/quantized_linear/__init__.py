"""x Wᵀ + b with W, and what x is rounded to, in fewer bits."""
