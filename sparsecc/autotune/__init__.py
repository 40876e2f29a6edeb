"""Goals, and what reaches them: what a model has to keep to, and how well a candidate does on held-out samples."""
