from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsecc.errors import ArtifactError
from sparsecc.runtime import weights

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "uint16", "bool"])
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=17)))


def written(arrays):
    stream = io.BytesIO()
    weights.write(stream, arrays)
    return stream.getvalue()


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), ARRAYS, max_size=5))
def test_read_is_the_inverse_of_write(arrays):
    back = weights.read(memoryview(written(arrays)))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_safetensors_reads_it():
    import safetensors.numpy

    arrays = {"odd": np.arange(7, dtype=np.int8), "even": np.ones((4, 16), np.float32), "scalar": np.array(2.5)}
    for name, array in safetensors.numpy.load(written(arrays)).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_bfloat16():
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert np.array_equal(weights.read(memoryview(written({"a": array})))["a"], array)


@pytest.mark.parametrize("content", [b"", b"\x05" + bytes(7) + b"hello", b"\xff" * 32, b"\x02" + bytes(7) + b"[]"])
def test_malformed_files_are_refused(content):
    with pytest.raises(ArtifactError, match="malformed"):
        weights.read(memoryview(content))


def test_equal_arrays_are_held_once():
    store = weights.WeightStore()
    arrays = [np.ones(3), np.ones(3), np.zeros(3), np.zeros(3), np.zeros(3, np.float32), np.zeros((3, 1)), np.zeros(0), np.array(0.0)]
    keys = [weights.content_key(array) for array in arrays]
    for key, array in zip(keys, arrays, strict=True):
        store.adopt(key, array)
    assert keys[0] == keys[1] and keys[2] == keys[3] and len({*keys}) == len(store.arrays) == 6
    for key, array in zip(keys, arrays, strict=True):
        np.testing.assert_array_equal(store.arrays[key], array, strict=True)
    store.keep_only([keys[2]])
    assert list(store.arrays) == [keys[2]]


def test_what_the_store_holds_is_aligned():
    store = weights.WeightStore({"a": np.frombuffer(bytes(40), np.float32, offset=4)})
    store.adopt("b", np.ones((5, 3))[:, ::2])
    assert all(array.ctypes.data % 64 == 0 and array.flags.c_contiguous for array in store.arrays.values())
    assert store.tensor("a") is store.tensor("a")
