"""Attention over the kept blocks of a reordered sequence."""
