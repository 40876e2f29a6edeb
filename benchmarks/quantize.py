"""Models quantized to int8 by other engines' own tools, as baselines: quantized once, kept under build/ beside the exported ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import export

Samples = Sequence[Mapping[str, np.ndarray]]


def openvino_int8(onnx: Path, samples: Samples, transformer: bool) -> Path:
    """Weights and activations in int8 with ranges calibrated on the samples, by NNCF. An .xml with the samples' shapes.

    transformer: NNCF first moves outliers of activations into the weights, and leaves in float what transformers are sensitive in.
    """

    def write(path: Path) -> None:
        import nncf
        import openvino

        network = openvino.Core().read_model(str(onnx))
        network.reshape({name: list(value.shape) for name, value in samples[0].items()})
        quantized = nncf.quantize(
            network,
            nncf.Dataset([dict(sample) for sample in samples]),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            subset_size=len(samples),
        )
        openvino.save_model(quantized, str(path), compress_to_fp16=False)

    kind = "transformer" if transformer else "plain"
    return _cached(onnx, samples, f"int8-{kind}-openvino{version('openvino')}-nncf{version('nncf')}.xml", write)


def onnxruntime_int8(onnx: Path, samples: Samples = ()) -> Path:
    """Weights in int8 with a range for each output channel. Activations: by the range that each tensor has when the model runs, or where
    there are samples, by the ranges that these have."""

    def write(path: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self._left = iter(samples)

            def get_next(self) -> dict[str, np.ndarray] | None:
                sample = next(self._left, None)
                return None if sample is None else dict(sample)

        prepared = path.with_suffix(".prepared.onnx")
        quant_pre_process(onnx, prepared, skip_symbolic_shape=True)  # weights in Constant nodes become initializers
        _scale_by_channel(prepared)
        if samples:
            quantize_static(prepared, path, Reader(), per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_dynamic(prepared, path, per_channel=True, weight_type=QuantType.QInt8)
        prepared.unlink()

    kind = "static" if samples else "dynamic"
    return _cached(onnx, samples, f"int8-{kind}-onnxruntime{version('onnxruntime')}.onnx", write)


def _scale_by_channel(path: Path) -> None:
    """Bring the model to opset 13, from which on DequantizeLinear has a scale for each channel."""
    import onnx
    from onnx.version_converter import convert_version

    model = onnx.load(path)
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < 13:
        onnx.save(convert_version(model, 13), path)


def _cached(onnx: Path, samples: Samples, ending: str, write: Callable[[Path], None]) -> Path:
    """The file that `write` makes, which is kept for as long as model, samples and versions are the same."""
    digest = hashlib.sha256(onnx.read_bytes())
    for sample in samples:
        for name, value in sample.items():
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value))
    path = export.CACHE / f"{onnx.stem.split('-')[0]}-{digest.hexdigest()[:16]}-{ending}"
    if path.exists():
        return path
    export.CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=export.CACHE) as folder:
        write(Path(folder) / path.name)
        for file in sorted(Path(folder).iterdir()):  # OpenVINO's .bin before its .xml
            file.replace(path.parent / file.name)
    return path
