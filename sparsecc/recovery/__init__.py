"""Recovery: the weights that are left learn to give what the dense model gave."""
