"""Sparse attention: what it costs in quality."""
