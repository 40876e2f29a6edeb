"""What every run of the tests says of itself, which tests are fast, and what need not be done for each of thousands of tests."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import exporting

TESTS = Path(__file__).parent
FAST = (  # folders and files whose tests neither export with torch nor load TVM; all of them together take less than a minute
    "allocations",
    "attention/test_base.py",
    "attention/test_fixed.py",
    "attention/test_mass.py",
    "attention/test_orders.py",
    "attention/test_plan.py",
    "autotune/metrics",
    "autotune/test_function.py",
    "autotune/test_goal.py",
    "autotune/test_quantities.py",
    "calibration/test_references.py",
    "criteria",
    "docs/test_readme.py",
    "docs/test_reference.py",
    "docs/test_site.py",
    "formats",
    "graph/test_binding.py",
    "graph/test_inputs.py",
    "laws/test_allocations.py",
    "laws/test_criteria.py",
    "laws/test_formats.py",
    "laws/test_members.py",
    "laws/test_metrics.py",
    "laws/test_patterns.py",
    "laws/test_refinements.py",
    "passes/test__orders.py",
    "calibration/test_samples.py",
    "graph/test_select.py",
    "passes/test__units.py",
    "calibration/test_variations.py",
    "passes/test_pack.py",
    "passes/test_pipeline.py",
    "patterns",
    "precisions/test_precisions.py",
    "ranks/test_work.py",
    "refinements",
    "report/test_base.py",
    "report/test_html.py",
    "report/test_ledger.py",
    "report/test_profile.py",
    "report/test_reading.py",
    "report/test_sensitivity.py",
    "report/test_table.py",
    "structures",
    "test_conftest.py",
    "test_files.py",
    "test_memory.py",
    "test_options.py",
    "test_recipe.py",
    "test_recipe_text.py",
    "test_recipe_yaml.py",
    "test_registry.py",
    "test_timing.py",
    "test_top.py",
    "train/test__masks.py",
    "train/test__recipe.py",
    "train/test_base.py",
)


def is_fast(path: Path) -> bool:
    """Whether the tests of a file, or of files in a folder, may be fast."""
    inside = path.relative_to(TESTS)
    named = any(inside == Path(entry) or Path(entry) in inside.parents for entry in FAST)
    return named or (path.is_dir() and any(inside in Path(entry).parents for entry in FAST))


def pytest_configure() -> None:
    """A shell that starts the tests in the background, or nohup, has them ignore signals that some of them are about."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast` other files are not even imported, which takes longer than the fast tests."""
    if config.option.markexpr != "fast" or not collection_path.is_relative_to(TESTS):
        return None
    return None if collection_path == TESTS or is_fast(collection_path) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS) and is_fast(item.path):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(autouse=True)
def _fast_tests_neither_export_nor_load_tvm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.node.get_closest_marker("fast") is None:
        yield
        return
    loaded = "tvm" in sys.modules  # by a slow test before this one
    if "torch.export" in sys.modules:
        monkeypatch.setattr("torch.export.export", _exported)
    yield
    assert loaded or "tvm" not in sys.modules, "a fast test loads TVM; take its file out of FAST in tests/conftest.py"


def _exported(*_: Any, **__: Any) -> None:
    raise AssertionError("a fast test exports with torch; take its file out of FAST in tests/conftest.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The CPU, since which kernels were run depends on it."""
    from sparsecc.codegen.cpu.target import detect, host_name

    target = detect(1)
    products = ", ".join(f"{dtype} by {name}" for dtype, name in sorted(target.dot.items())) or "no narrow products"
    terminalreporter.write_line(f"CPU: {host_name()} ({target.cpu}), {target.vector_bits}-bit vectors, {products}")


def pytest_collection_finish() -> None:
    """Modules and test items stay to the end. Collected as often as by default, garbage takes 10 % of a run that compiles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def pytest_runtest_setup() -> None:
    exporting.remember()
