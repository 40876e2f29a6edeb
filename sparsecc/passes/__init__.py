"""Passes: Graph → Graph, one per file. Members: pack, prune, quantize, reorder_tokens, substitute."""

HELPERS = ("pipeline",)  # modules here that are no passes
