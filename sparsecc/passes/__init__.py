"""Passes: Graph → Graph, one per file. Members: prune, pack, substitute."""

HELPERS = ("pipeline",)  # modules here that are no passes
