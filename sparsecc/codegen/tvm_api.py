"""The one door to TVM: its names move with every release, so that only this file knows where they live.

Names are looked up on first use, and `import sparsecc` loads no TVM. Add a line to `_HOMES` for what you need.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

OPAQUE = 8  # relax's OpPatternKind that fusion leaves alone
_HOMES = {  # name here → module, or module:name there
    "ExportedProgramImporter": "tvm.relax.frontend.torch.exported_program_translator",
    "Expr": "tvm.ir",
    "GenericConst": "tvm.ir",
    "IRModule": "tvm.ir",
    "PrimFunc": "tvm.tirx",
    "BlockBuilder": "tvm.relax",
    "T": "tvm.script:tirx",
    "TvmTarget": "tvm.target:Target",
    "from_exported_program": "tvm.relax.frontend.torch",
    "onnx_frontend": "tvm.relax.frontend.onnx:onnx_frontend",
    "relax": "tvm:relax",
    "s_tir": "tvm:s_tir",
    "module_pass": "tvm.ir.transform",
    "ScheduleError": "tvm.s_tir.schedule",
    "Op": "tvm.ir",
    "register_intrin_lowering": "tvm.tirx.op",
    "te": "tvm:te",
    "tensor": "tvm.runtime",
    "tirx": "tvm:tirx",
    "topi": "tvm:topi",
    "tvm": "tvm:__self__",
    "VirtualMachine": "tvm.runtime.vm",
    "cpu": "tvm.runtime",
    "empty": "tvm.runtime",
    "from_dlpack": "tvm.runtime",
    "get_global_func": "tvm_ffi",
    "register_global_func": "tvm_ffi",
    "rpc_base": "tvm.rpc.base:__self__",
    "ptx_engine": "tvm.backend.cuda.ptx.engine:__self__",
    "ptx_table": "tvm.backend.cuda.ptx.table:__self__",
    "load_module": "tvm_ffi",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"{name!r} is not listed in {__name__}")
    # Yields until an idle worker sleeps. By default that takes up to 100 ms, in which it is in the way of other callers' workers: four
    # callers of BERT-base in turns had 0.73 of one's throughput, now 0.97 to 1.01. One caller of it or of opennsfw (5 ms) loses nothing.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "300")
    with _torch_unseen():
        importlib.import_module("tvm")
    if name == "T":
        _walk_stacks_without_sources()
        _parse_each_text_once()
        _look_names_up()
    module, _, attribute = _HOMES[name].partition(":")
    value = importlib.import_module(module)
    if attribute != "__self__":
        value = getattr(value, attribute or name)
    globals()[name] = value
    return value


def limit_threads(count: int) -> None:
    """How many threads the pools of callers that have none yet will have."""
    runtime = importlib.import_module("tvm.base")._LOADED_LIBS["tvm_runtime"]
    runtime._ZN3tvm7runtime9threading17SetMaxConcurrencyEi(count)  # which has no other name


def _walk_stacks_without_sources() -> None:
    """TVMScript's parser asks `inspect` for its callers' frames, for each `prim_func` and each use of an `inline`. That looks for each
    line of source, too, through all loaded modules: under pytest 0.6 s a time, two thirds of a build."""
    for module in ("tvm.tirx.script.parser.entry", "tvm.script.parser.core.parser"):
        vars(importlib.import_module(module))["inspect"] = _Frames("inspect")


def _parse_each_text_once() -> None:
    """A kernel's text is parsed anew, and twice, for each layer that it is built for, which was a third of the parser's time. The tree
    depends on the text alone. The parser writes into it while it walks (it takes decorators off), so that each walk gets a copy."""
    diagnostics = importlib.import_module("tvm.script.parser.core.diagnostics")
    parse = diagnostics.doc.parse

    @functools.lru_cache(maxsize=512)
    def tree(text: str) -> bytes:
        return pickle.dumps(parse(text), pickle.HIGHEST_PROTOCOL)

    diagnostics.Source.as_ast = lambda source: pickle.loads(tree(source.source))


def _look_names_up() -> None:
    """Names and constants stand for themselves. The parser compiles each of them to Python's bytecode and evaluates that: a quarter of its
    time."""
    evaluator = importlib.import_module("tvm.script.parser.core.evaluator")
    doc, evaluated = evaluator.doc, evaluator._eval_expr

    def value(node: Any, names: dict[str, Any] | None) -> Any:
        if type(node) is doc.Constant:
            return node.value
        if type(node) is doc.Name and names is not None and node.id in names:
            return names[node.id]
        return evaluated(node, names)

    vars(evaluator)["_eval_expr"] = value


class _Frames(ModuleType):
    """`inspect`, but that its stacks come without source."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def stack(self) -> list[inspect.FrameInfo]:
        return self.getouterframes(sys._getframe(1))

    @staticmethod
    def getouterframes(frame: FrameType | None) -> list[inspect.FrameInfo]:
        frames = []
        while frame is not None:
            frames.append(inspect.FrameInfo(frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, None, None))
            frame = frame.f_back
        return frames


@contextmanager
def _torch_unseen() -> Iterator[None]:
    """Keep tvm_ffi from importing torch merely because it is installed: that takes 2 of 3 seconds of loading an artifact.
    Torch tensors still pass to TVM afterwards, through their own DLPack exchange."""
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's way to say: importing this fails
    try:
        yield
    finally:
        sys.modules.pop("torch", None)


def compile_function(func: Any, llvm: dict[str, Any]) -> Callable[..., None]:
    """A scheduled PrimFunc that can be called."""
    return compile_module(importlib.import_module("tvm").IRModule({"main": func.with_attr("global_symbol", "main")}), llvm)["main"]


def compile_module(module: Any, llvm: dict[str, Any]) -> Any:
    """An IRModule of scheduled PrimFuncs → loadable code for an LLVM target."""
    tvm = importlib.import_module("tvm")
    return tvm.compile(module, target=tvm.target.Target(dict(llvm)))
