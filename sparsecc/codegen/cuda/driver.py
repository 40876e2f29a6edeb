"""Loading cubins and launching their kernels through the CUDA driver's own library, and nothing else: no toolkit, no compiler, no TVM.

Source: CUDA Driver API, "Module Management" and "Execution Control" (12.0 and later).
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Mapping
from ctypes import POINTER, Structure, Union, byref, c_char, c_char_p, c_int, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

from sparsecc.errors import SparseccError, UserError

_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_CLUSTER, _DEPENDENT = 4, 6  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .._PROGRAMMATIC_STREAM_SERIALIZATION
_MAP_BYTES = 128
_UINTS = {1: 0, 2: 1, 4: 2}  # bytes → CU_TENSOR_MAP_DATA_TYPE_UINT8, .._UINT16, .._UINT32
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # bytes → CU_TENSOR_MAP_SWIZZLE_..
_PROMOTE = 3  # CU_TENSOR_MAP_L2_PROMOTION_L2_256B
_NO_BINARY = (200, 209)  # CUDA_ERROR_INVALID_IMAGE, .._NO_BINARY_FOR_GPU


@dataclass(frozen=True)
class Boxes:
    """A tensor as copies of boxes (`cp.async.bulk.tensor`) see it. What a box holds outside of the tensor is read as zero and not written.

    shape, box: numbers along each dimension, the contiguous one last; of the shape, 0 stands for the number of tokens.  strides: bytes from
    one to the next along all dimensions but the last.  swizzle: bytes of the pattern in which a box lies in shared memory, 0 for none."""

    number_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int = 128


@dataclass(frozen=True)
class Geometry:
    """grid: blocks.  threads: of a block.  shared_bytes: dynamic ones of a block.  cluster: blocks of a cluster, along the grid's first
    side.  dependent: may start before the kernel before it has ended (`griddepcontrol`), sm_90 and later.  maps: the parameters that are
    tensor maps, and of what."""

    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    cluster: int = 1
    dependent: bool = False
    maps: tuple[tuple[str, Boxes], ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Geometry:
        """From `asdict`, also when it went through JSON. Raises LookupError, TypeError or ValueError for anything else."""
        maps = tuple((name, Boxes(**{key: _tuple(value) for key, value in boxes.items()})) for name, boxes in data["maps"])
        return cls(**{key: _tuple(value) for key, value in data.items() if key != "maps"}, maps=maps)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Value(Union):
    _fields_ = (("pad", c_char * 64), ("cluster", c_uint * 3), ("number", c_int))


class _Attribute(Structure):
    _fields_ = (("id", c_int), ("pad", c_char * 4), ("value", _Value))


class _Config(Structure):
    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", POINTER(_Attribute)),
        ("count", c_uint),
    )


_KINDS = {"p": "Q", "i": "i4x", "m": f"{_MAP_BYTES}s"}  # of arguments, as `struct` spells them


class Kernel:
    """A function of a cubin on the device whose context is current when it is loaded.

    Callable from several threads; its arguments are what `arguments` says: "p" for an address, "i" for an int32, "m" for a tensor map.

    Raises SparseccError for a cubin that the device cannot run.
    """

    def __init__(self, cubin: bytes, name: str, geometry: Geometry, arguments: str) -> None:
        driver = _driver()
        self._module = c_void_p()  # stays loaded as long as the process lives
        code = driver.cuModuleLoadData(byref(self._module), cubin)
        if code in _NO_BINARY:
            raise SparseccError(f"kernel {name} is not for this GPU: {_words(code)}")
        _check(code, f"loading kernel {name}")
        self._function = c_void_p()
        _check(driver.cuModuleGetFunction(byref(self._function), self._module, name.encode()), f"finding kernel {name}")
        if geometry.shared_bytes > 48 * 1024:
            code = driver.cuFuncSetAttribute(self._function, _SHARED_BYTES, geometry.shared_bytes)
            _check(code, f"{geometry.shared_bytes} bytes of shared memory for kernel {name}")
        self.name, self._geometry, self._kinds = name, geometry, arguments
        self._pack = struct.Struct("<" + "".join(_KINDS[kind] for kind in arguments)).pack_into
        self._launch, self._handle, self._local = driver.cuLaunchKernelEx, self._function.value, threading.local()

    def __call__(self, stream: int, *arguments: int | bytes) -> None:
        """Raises SparseccError where the launch fails."""
        try:
            config, place, buffer, places, _ = self._local.ready
        except AttributeError:
            config, place, buffer, places, _ = self._local.ready = self._ready()
        self._pack(buffer, 0, *arguments)
        config.stream = stream
        code = self._launch(place, self._handle, places, None)
        if code:
            _check(code, f"launching kernel {self.name}")

    def _ready(self) -> tuple[Any, ...]:
        """A thread's own: the configuration, its address, a buffer for arguments, the address of their addresses, what these lie in."""
        geometry = self._geometry
        attributes = []
        if geometry.cluster > 1:
            attributes.append(_Attribute(_CLUSTER, b"", _Value(cluster=(geometry.cluster, 1, 1))))
        if geometry.dependent:
            attributes.append(_Attribute(_DEPENDENT, b"", _Value(number=1)))
        row = (_Attribute * max(1, len(attributes)))(*attributes)
        config = _Config(geometry.grid, (geometry.threads, 1, 1), geometry.shared_bytes, 0, row, len(attributes))
        ends = list(accumulate(struct.calcsize(_KINDS[kind]) for kind in self._kinds))
        buffer = ctypes.create_string_buffer(max(8, *ends, 0))
        places = (c_void_p * max(1, len(ends)))(*(ctypes.addressof(buffer) + start for start in [0, *ends][:-1]))
        return config, ctypes.addressof(config), buffer, ctypes.addressof(places), places


@lru_cache(maxsize=1 << 12)
def tensor_map(address: int, boxes: Boxes, tokens: int = 0) -> bytes:
    """What is given for a parameter "m".

    Raises SparseccError for what the device cannot copy: an address or strides that are no multiples of 16 bytes, a box of more than 256
    numbers along a dimension or of wider rows than the swizzle."""
    shape, rank = [length or tokens for length in boxes.shape], len(boxes.shape)
    room = (c_char * (2 * _MAP_BYTES))()
    begin = -ctypes.addressof(room) % 64  # the driver wants it aligned so
    code = _driver().cuTensorMapEncodeTiled(
        ctypes.addressof(room) + begin,
        _UINTS[boxes.number_bytes],
        rank,
        address,
        (c_uint64 * rank)(*reversed(shape)),
        (c_uint64 * max(1, rank - 1))(*reversed(boxes.strides)),
        (c_uint * rank)(*reversed(boxes.box)),
        (c_uint * rank)(*[1] * rank),
        0,
        _SWIZZLES[boxes.swizzle],
        _PROMOTE,
        0,
    )
    _check(code, f"a tensor map of {shape} at {address:#x}, {boxes}")
    return bytes(room[begin : begin + _MAP_BYTES])


def _check(code: int, what: str) -> None:
    if code:
        raise SparseccError(f"{what}: the CUDA driver says: {_words(code)}")


def _words(code: int) -> str:
    text = c_char_p()
    _driver().cuGetErrorString(code, byref(text))
    return text.value.decode() if text.value else f"error {code}"


@cache
def _driver() -> Any:
    """Raises UserError where there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise UserError("this machine has no CUDA driver (libcuda.so.1), so that nothing can run on a GPU") from None
    if not hasattr(library, "cuLaunchKernelEx"):
        raise UserError("the CUDA driver is older than 12.0; update it")
    library.cuLaunchKernelEx.argtypes = (c_void_p, c_void_p, c_void_p, c_void_p)
    library.cuModuleLoadData.argtypes = (POINTER(c_void_p), c_char_p)
    library.cuModuleGetFunction.argtypes = (POINTER(c_void_p), c_void_p, c_char_p)
    library.cuFuncSetAttribute.argtypes = (c_void_p, c_int, c_int)
    library.cuTensorMapEncodeTiled.argtypes = (c_void_p, c_int, c_uint, c_void_p, *(c_void_p,) * 4, *(c_int,) * 4)
    library.cuGetErrorString.argtypes = (c_int, POINTER(c_char_p))
    return library


def present() -> bool:
    """Whether there is a driver to load cubins with."""
    try:
        _driver()
    except UserError:
        return False
    return True
