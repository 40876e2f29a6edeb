from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import sparsecc
from sparsecc.calibration.samples import samples_of
from sparsecc.errors import InputError
from sparsecc.graph import binding
from sparsecc.graph.base import TensorSpec
from tests.api.test_sources import DYNAMIC, SPECS, sample
from tests.cli.conftest import INPUTS, two_layers


def test_calibration_from_an_iterable():
    assert samples_of(None, SPECS) is None
    three = samples_of((sample(i) for i in range(3)), SPECS)
    assert three is not None and len(three) == 3
    with pytest.raises(InputError, match="calibration: no samples"):
        samples_of([], SPECS)
    with pytest.raises(InputError, match="calibration, sample 1: input 'x' is float64"):
        samples_of([sample(), [np.zeros((1, 4)), sample()[1]]], SPECS)


def refilling(buffers, count=3):
    """A loader that gives the same memory again and again."""
    for number in range(count):
        for buffer in buffers:
            buffer[:] = number
        yield tuple(buffers)


@pytest.mark.parametrize("form", ["iterator", "views", "loader"])
def test_buffers_that_are_refilled_are_copied(form):
    x, ids = torch.zeros(1, 4), np.zeros((1, 3), np.int64)
    source = refilling([x, ids])
    if form == "views":
        source = ((x[:], ids[:]) for x, ids in source)
    if form == "loader":

        class Refilled(DataLoader):
            def __iter__(self) -> Any:
                return refilling([x, torch.from_numpy(ids)])

        source = Refilled(TensorDataset(x))
    samples = samples_of(source, SPECS)
    assert samples is not None
    assert [[float(value.max()) for value in sample] for sample in samples] == [[0, 0], [1, 1], [2, 2]]


def test_a_list_of_one_refilled_buffer_is_warned_of():
    given = list(refilling([torch.zeros(1, 4), np.zeros((1, 3), np.int64)]))
    with pytest.warns(UserWarning, match="samples 0 and 1 are one and the same tensor"):
        samples_of(given, SPECS)
    shared, apart = torch.zeros(1, 3, dtype=torch.int64), [torch.full((1, 4), value) for value in (1.0, 2.0)]
    samples = samples_of([(x, shared) for x in apart], SPECS)  # one mask for all samples is as it should be
    assert samples is not None
    assert samples[0][0].data_ptr() == apart[0].data_ptr()  # nothing is copied that the caller holds


def test_a_batch_of_a_loader_that_is_no_tensor_is_numbered():
    class Broken(DataLoader):
        def __iter__(self) -> Any:
            return iter([tuple(map(torch.from_numpy, sample())), 7])

    with pytest.raises(InputError, match="calibration, sample 1: inputs are a int"):
        samples_of(Broken(TensorDataset(torch.zeros(1))), SPECS)


@pytest.mark.parametrize("extra", [True, False], ids=["stacked", "batched"])
def test_calibration_from_npz(tmp_path, extra):
    path = tmp_path / "c.npz"
    arrays = {"x": np.arange(20, dtype=np.float32).reshape(5, 4), "ids": np.ones((5, 3), np.int64)}
    np.savez(path, **{name: array[:, None] if extra else array for name, array in arrays.items()})
    samples = samples_of(path, SPECS)
    assert samples is not None
    assert [s[0].shape for s in samples] == [(1, 4)] * 5
    assert samples[2][0][0, 0] == 8


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4), np.float32), "y": np.zeros(2)}, "the model has no input 'y'"),
        ({"x": np.zeros((2, 4), np.float32), "ids": np.ones((3, 3), np.int64)}, "different numbers of samples: x 2, ids 3"),
        ({"x": np.zeros((2, 4), np.float32)}, "sample 0: input 'ids' is missing"),
        ({"x": np.array([{}], dtype=object)}, "cannot be read as .npz: x.npy: Object arrays"),
        ({}, "no samples"),
    ],
)
def test_a_wrong_npz_says_what_is_wrong(tmp_path, arrays, message):
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(InputError, match=f"c.npz.*{message}"):
        samples_of(tmp_path / "c.npz", SPECS)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2**60, 0), np.float32, "no array holds a value"),
        ((2**50, 2, 0), np.float32, "no array holds a value"),
        ((2**50, 4, 0), np.int8, "input 'x' is int8, the model takes float32"),
    ],
)
def test_nothing_is_cut_into_a_billion_billion_pieces(shape, dtype, message):
    with pytest.raises(InputError, match=f"calibration: {message}"):
        samples_of({"x": np.empty(shape, dtype)}, [TensorSpec("x", ("n", 4), "float32")])


def test_an_npz_is_cut_into_the_batches_that_the_model_takes(tmp_path):
    np.savez(tmp_path / "c.npz", x=np.arange(24, dtype=np.float32).reshape(6, 4))
    samples = samples_of(tmp_path / "c.npz", [TensorSpec("x", (3, 4), "float32")])
    assert samples is not None
    assert [sample[0][:, 0].tolist() for sample in samples] == [[0, 4, 8], [12, 16, 20]]
    with pytest.raises(InputError, match=r"c\.npz, sample 1: input 'x' has 2 at axis 0, the model takes \(4, 4\)"):
        samples_of(tmp_path / "c.npz", [TensorSpec("x", (4, 4), "float32")])


def test_a_mapping_is_what_an_npz_holds():
    arrays = {"ids": torch.ones(3, 3, dtype=torch.int64), "x": torch.arange(12.0).reshape(3, 4)}
    samples = samples_of(arrays, SPECS)
    assert samples is not None
    assert [(x.tolist(), tuple(ids.shape)) for x, ids in samples][1] == ([[4, 5, 6, 7]], (1, 3))
    with pytest.raises(InputError, match="calibration: 'x' is a list; pass an array with all samples"):
        samples_of({"x": [sample()[0]], "ids": [sample()[1]]}, SPECS)


X, LABELS = torch.arange(40.0).reshape(10, 4), torch.arange(10)
PAIRS: Any = [({"x": x}, y) for x, y in zip(X, LABELS, strict=True)]  # a list does for a Dataset


def loader(*columns, names=None, size=4):
    """Batches of tuples, or of dicts."""
    rows = TensorDataset(*columns)
    collate = None if names is None else lambda batch: dict(zip(names, map(torch.stack, zip(*batch, strict=True)), strict=True))
    return DataLoader(rows, batch_size=size, collate_fn=collate)


@pytest.mark.parametrize(
    "batches",
    [
        loader(X),
        loader(X, LABELS),
        loader(LABELS, X, names=("labels", "x")),
        DataLoader(PAIRS, batch_size=4),
        (batch for (batch,) in loader(X)),
        iter([(X[:4],), {"x": X[4:8].numpy()}, X[8:]]),
    ],
    ids=["inputs", "and labels", "by name", "dicts and labels", "generator", "mixed"],
)
def test_batches_of_a_loader_without_their_labels(batches):
    samples = samples_of(batches, DYNAMIC)
    assert samples is not None
    assert [len(x) for (x,) in samples] == [4, 4, 2]
    assert np.array_equal(np.concatenate([np.asarray(x) for (x,) in samples]), X)


def test_what_a_loader_lacks():
    with pytest.raises(InputError, match=r"calibration, sample 0: no input 'y'; the model takes 1: x"):
        samples_of(loader(X, names=("y",)), DYNAMIC)
    with pytest.raises(InputError, match="sample 0: input 'x' is int64"):
        samples_of(loader(LABELS, X), DYNAMIC)


def test_elsewhere_labels_are_a_mistake_that_the_error_mends():
    with pytest.raises(InputError, match=r"sample 0: 2 inputs given, the model takes 1: x; .*\[inputs for inputs, _ in batches\]"):
        samples_of(list(loader(X, LABELS)), DYNAMIC)
    with pytest.raises(InputError, match="sample 0: no input 'labels'"):
        samples_of(list(loader(X, LABELS, names=("x", "labels"))), DYNAMIC)


@pytest.mark.parametrize("of", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_nan_and_infinity(of, value, word):
    good, bad = of(np.ones((1, 4), np.float32)), of(np.array([[1, 2, value, 3]], np.float32))
    with pytest.raises(InputError, match=f"calibration, sample 1: input 'x' holds {word}"):
        samples_of([good, bad], DYNAMIC)


def test_a_mask_may_hold_minus_infinity():
    assert samples_of([np.array([[0, -np.inf, 0, 0]], np.float32)], DYNAMIC) is not None


@pytest.mark.parametrize("given", [5, "abc", b"x"])
def test_what_is_no_calibration(given):
    with pytest.raises(InputError, match=r"calibration, sample 0: inputs are a .*; pass an array, a tuple of them, or a dict by name"):
        samples_of([given], SPECS)
    with pytest.raises(InputError, match=r"no such file|calibration is a int|sample 0: inputs are a int"):
        samples_of(given, SPECS)


def test_a_run_of_many_passes_looks_at_each_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound to the model's inputs and searched for NaN: not again by every pass, and not again to compare the outputs."""
    counts: dict[str, int] = {"_checked": 0, "reject_nan": 0}
    for name in counts:

        def counted(*args: Any, name: str = name, original: Any = getattr(binding, name)) -> Any:
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(binding, name, counted)
    generator = np.random.default_rng(0)
    samples = [generator.standard_normal((8, INPUTS)).astype(np.float32) for _ in range(4)]
    prune = {"criterion": "sparsegpt", "allocation": "sensitivity", "variations": 1, "min_weights": 1}
    recipe = ["permute", {"prune": prune}, "pack"]
    _, report = sparsecc.convert(two_layers(), {"passes": recipe}, samples)
    assert report.check is not None
    assert counts == {"_checked": 4, "reject_nan": 4}
