"""Attention over blocks that are chosen in each call."""
