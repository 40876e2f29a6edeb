from __future__ import annotations

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from sparsecc.calibration import npz
from sparsecc.calibration.npz import read_npz
from sparsecc.errors import InputError


def write(path, header, data=b"", method=zipfile.ZIP_STORED):
    """An .npz of one array x, with this text as its header."""
    text = header.encode().ljust(118)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return path


def declared(descr, shape):
    return repr({"descr": descr, "fortran_order": False, "shape": shape})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
    arrays = {
        "x": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "turned": np.asfortranarray(np.arange(12, dtype=">i8").reshape(3, 4)),
        "one": np.float64(3),
        "empty": np.zeros((3, 0, 2), np.uint8),
        "flags": np.array([True, False]),
    }
    save(tmp_path / "c.npz", **arrays)
    read = read_npz(tmp_path / "c.npz")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (np.asarray(array).dtype, np.shape(array))
        assert np.array_equal(read[name], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no zip of arrays$"),
        (b"PK\x03\x04 nothing", "File is not a zip file"),
        (b"hello", "it is no zip of arrays$"),
        (b"\x80\x04 a pickle", "it is no zip of arrays$"),
        (b"\x93NUMPY\x01\x00", "one array without a name; write it with numpy.savez"),
    ],
)
def test_what_is_no_npz(tmp_path, content, message):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"c\.npz: cannot be read as \.npz: {message}"):
        read_npz(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (declared("|V0", (2**60,)), b"", r"\|V0 is no type of numbers"),
        (declared("|S0", (2**60,)), b"", r"\|S0 is no type of numbers"),
        (declared("<f4", (2**60,)), b"", "declares 1152921504606846976 of float32, and has 0 bytes for it"),
        (declared("<f4", (2**40, 2**40)), b"", "declares 1099511627776x1099511627776 of float32"),
        (declared("<f4", (2,)), b"1234567", "declares 2 of float32, and has 7 bytes for it"),
        (declared("<f4", (-1, -2)), b"12345678", "declares a size below zero"),
        (declared("|O", (1,)), b"pickle", "Object arrays are pickles, which are not loaded"),
        ("{'descr': '<f4', 'shape': ", b"", "."),
        ("[" * 100, b"", "."),
        ("-" * 9000 + "1", b"", r"x\.npy: its header cannot be read"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "-" * 8000 + "1,)}", b"", r"x\.npy: its header cannot be read"),
    ],
)
def test_headers_that_promise_too_much(tmp_path, header, data, message):
    with pytest.raises(InputError, match=rf"c\.npz: cannot be read as \.npz: .*{message}"):
        read_npz(write(tmp_path / "c.npz", header, data))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_noticed(tmp_path, method):
    content = write(tmp_path / "c.npz", declared("<f4", (500,)), np.random.default_rng(0).bytes(2000), method).read_bytes()
    for position in range(0, len(content), 31):
        (tmp_path / "c.npz").write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            read_npz(tmp_path / "c.npz")
        except InputError as error:
            assert "\n" not in str(error)
    for size in (10, 500, len(content) - 1):
        (tmp_path / "c.npz").write_bytes(content[:size])
        with pytest.raises(InputError):
            read_npz(tmp_path / "c.npz")


def test_what_unpacks_to_more_than_there_is(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "c.npz", x=np.zeros(10**6))
    monkeypatch.setattr(npz.memory, "available", lambda: 1 << 20)
    with pytest.raises(InputError, match=r"it unpacks to 0\.0 GB, and 0\.0 GB of memory are free"):
        read_npz(tmp_path / "c.npz")


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"missing\.npz: no such file"):
        read_npz(tmp_path / "missing.npz")
    with pytest.raises(InputError, match=r"cannot be read as \.npz: Is a directory$"):
        read_npz(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no regular file, so that it is not read"):
        read_npz(tmp_path / "pipe")


def test_a_lone_array_has_no_name(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    (tmp_path / "c.npz").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="without a name"):
        read_npz(tmp_path / "c.npz")
