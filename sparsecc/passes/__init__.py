"""Passes: Graph → Graph, one per file. Members: prune, pack."""

HELPERS = ("pipeline",)  # modules here that are no passes
