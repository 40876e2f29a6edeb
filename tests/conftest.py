"""What every run of the tests says of itself, and what torch need not do for each of a thousand exports."""

from __future__ import annotations

import functools
import sys

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The CPU, since which kernels were run depends on it."""
    from sparsecc.codegen.target import detect, host_name

    target = detect(1)
    products = ", ".join(f"{dtype} by {name}" for dtype, name in sorted(target.dot.items())) or "no narrow products"
    terminalreporter.write_line(f"CPU: {host_name()} ({target.cpu}), {target.vector_bits}-bit vectors, {products}")


def pytest_runtest_setup() -> None:
    """torch asks the dispatcher for all its operators 15 times per export, since programs may add some: 7 % of a run."""
    utils = sys.modules.get("torch._export.utils")
    if utils is not None and not hasattr(utils._materialize_cpp_cia_ops, "cache_info"):
        utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
