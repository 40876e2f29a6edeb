"""Tensors whose data lies in a file beside the model: mapped, not copied, and nothing outside the model's folder is ever read."""

from __future__ import annotations

import math
import os
from pathlib import Path, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import TensorProto

from sparsecc.errors import ModelError
from sparsecc.graph.onnx.valid import inner_tensors


def weights(proto: onnx.ModelProto, where: str, folder: Path | None, real: Path | None = None) -> dict[str, np.ndarray]:
    """Arrays of the graph's external initializers, by name. External tensors elsewhere (in attributes) are read into the proto.

    real: where the file itself lies, when its name is a link, as in the cache of huggingface_hub; its data may be linked from there.
    """
    external = [(tensor, True) for tensor in proto.graph.initializer] + [(tensor, False) for tensor in inner_tensors(proto)]
    external = [(tensor, outer) for tensor, outer in external if tensor.data_location == TensorProto.EXTERNAL]
    if external and folder is None:
        raise ModelError(f"{where}: tensor '{external[0][0].name}' has its data in another file; give the path of the .onnx file instead")
    maps: dict[Path, np.ndarray] = {}
    found = {}
    for tensor, outer in external:
        what = f"{where}: external data of tensor '{tensor.name}'"
        location = {entry.key: entry.value for entry in tensor.external_data}
        source = _inside(location.get("location", ""), Path(folder or "."), real, what)
        if source not in maps:  # one mapping per file: each costs a file descriptor
            maps[source] = _mapped(source, what)
        if tensor.data_type == TensorProto.STRING:
            raise ModelError(f"{what}: strings cannot lie in another file")
        raw = _slice(maps[source], location, tensor, f"{what} in {source.name}")
        dtype = ir.DataType(tensor.data_type)
        if outer and dtype.bitwidth >= 8:
            aligned = raw if raw.ctypes.data % dtype.numpy().itemsize == 0 else raw.copy()
            found[tensor.name] = aligned.view(dtype.numpy()).reshape(tuple(tensor.dims))
        else:
            tensor.raw_data = raw.tobytes()
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return found


def files_of(path: Path) -> set[Path]:
    """The files that hold data of the model in a file, links followed; none where no model can be read, which is for others to say."""
    try:
        proto = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (OSError, DecodeError):
        return set()
    external = [tensor for tensor in (*proto.graph.initializer, *inner_tensors(proto)) if tensor.data_location == TensorProto.EXTERNAL]
    locations = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return {Path(os.path.realpath(path.parent / location)) for location in locations if location.isprintable()}


def _inside(location: str, folder: Path, real: Path | None, what: str) -> Path:
    """The file that external data names, links followed: refused unless it lies in the model's folder, or right beside the file to which
    the model's name leads."""
    outside = ModelError(f"{what} points outside the model's folder ('{location}'); it is not read")
    if not location or not location.isprintable():
        raise ModelError(f"{what} names no file{f': {location!r}' if location else ''}")
    if Path(location).is_absolute() or PureWindowsPath(location).drive or ".." in location.replace("\\", "/").split("/"):
        raise outside
    source = folder / location
    try:
        led = source.resolve()
        inside = led.is_relative_to(folder.resolve()) or led.parent == real
        exists = source.is_file()
        elsewhere = real is not None and real != folder.resolve() and (real / location).is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, links that lead in a circle
        raise ModelError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not inside and exists and source.is_symlink():
        raise ModelError(f"{what} points outside the model's folder: '{location}' is a link to {led}; put a copy in the link's place")
    if not inside:
        raise outside
    if not exists:
        hint = f"; the model's name is a link to {real}, where it is: give the model's path there" if elsewhere else ""
        raise ModelError(f"{what} is missing: there is no file '{location}' beside the model{hint}")
    return source


def _mapped(source: Path, what: str) -> np.ndarray:
    try:
        return np.memmap(source, np.uint8, "r") if source.stat().st_size else np.empty(0, np.uint8)
    except OSError as error:
        raise ModelError(f"{what} cannot be read: {error.strerror or error}") from None


def _slice(data: np.ndarray, location: dict[str, str], tensor: TensorProto, what: str) -> np.ndarray:
    """The bytes of one tensor in its data file."""
    expected = -(-math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth // 8)
    try:
        offset, length = int(location.get("offset", 0)), int(location.get("length", expected))
    except ValueError:
        raise ModelError(f"{what}: offset or length is no number") from None
    if length != expected or offset < 0:
        raise ModelError(f"{what}: {length} bytes at {offset}, but the shape {list(tensor.dims)} needs {expected}")
    if offset + length > data.size:
        raise ModelError(f"{what}: the file was cut off: it has {data.size} bytes, {offset + length} are needed")
    return data[offset : offset + length]
