# pyright: reportInvalidTypeForm=false
# Buffers of TVMScript are calls where Python has types.

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sparsecc.codegen import tvm_api


def test_every_name_is_where_it_says():
    for name in tvm_api._HOMES:
        assert getattr(tvm_api, name) is not None


def test_others_are_not_offered():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = tvm_api.no_such_thing


def test_torch_is_not_loaded_but_works_afterwards():
    script = (
        "import sys\n"
        "from sparsecc.codegen import tvm_api\n"
        "tvm_api.cpu()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert torch.from_dlpack(tvm_api.from_dlpack(torch.ones(64))).sum() == 64\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_kernels_are_parsed_without_looking_for_sources(monkeypatch):
    """TVMScript's parser walks the stack for each function; to find every frame's source takes longer than all else of a build."""
    assert tvm_api.T.prim_func is not None  # the door opens it

    def looked(*_arguments: object):
        raise AssertionError("a frame's source was looked for")

    monkeypatch.setattr("inspect.getframeinfo", looked)

    @tvm_api.T.prim_func(private=True)
    def doubled(x: tvm_api.T.Buffer((4,), "float32"), y: tvm_api.T.Buffer((4,), "float32")):
        for i in range(4):
            y[i] = x[i] * 2.0

    assert doubled.body is not None


def test_a_kernel_is_parsed_once_and_is_the_same_every_time(monkeypatch):
    """Trees are kept; what the parser writes into them must not reach the next kernel, in this thread or in another."""
    parsed, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda source, *rest, **options: parsed.append(source) or parse(source, *rest, **options))
    texts = [str(_sums(4).script()), str(_sums(8).script()), str(_sums(4).script())]
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda n: str(_sums(n).script()), [4, 8] * 8))
    assert texts[0] == texts[2] != texts[1]
    assert others == texts[:2] * 8
    assert sum("def sums" in str(source) for source in parsed) == 1


def test_names_and_constants_are_looked_up(monkeypatch):
    """What the kernel does not know is still named by the parser."""
    with pytest.raises(Exception, match="Undefined variable: unknown"):

        @tvm_api.T.prim_func(private=True)
        def wrong(x: tvm_api.T.Buffer((4,), "float32")):
            x[0] = unknown  # noqa: F821  # type: ignore[name-defined]


def _sums(n: int) -> Any:
    @tvm_api.T.prim_func(private=True)
    def sums(x: tvm_api.T.Buffer((n,), "float32"), y: tvm_api.T.Buffer((1,), "float32")):
        @tvm_api.T.inline
        def add(value):
            y[0] += value

        y[0] = 0.0
        for i in range(n):
            add(x[i])

    return sums
