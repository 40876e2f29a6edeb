"""What every run of the tests says of itself."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The CPU, since which kernels were run depends on it."""
    from sparsecc.codegen.cpu.target import detect, host_name

    target = detect(1)
    products = ", ".join(f"{dtype} by {name}" for dtype, name in sorted(target.dot.items())) or "no narrow products"
    terminalreporter.write_line(f"CPU: {host_name()} ({target.cpu}), {target.vector_bits}-bit vectors, {products}")
