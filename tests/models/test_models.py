"""What every model in models/ keeps, whichever it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import models
from sparsecc.errors import UserError

OUTPUT_SHAPES = {
    "bert_base": (1, 128, 768),
    "gpt_small": (1, 128, 96),
    "llama_small": (1, 128, 32000),
    "minilm": (1, 128, 384),
    "opennsfw": (1, 2),
    "pp_ocr_det": (1, 1, 640, 640),
    "pp_ocr_rec": (1, 40, 6625),
    "video_dit": (1, 16, 7, 16, 24),
    "video_dit_small": (1, 3, 16, 64, 64),
    "vit_b": (1, 1000),
    "vit_small": (1, 10),
}
every_model = pytest.mark.parametrize("name", models.names())


def run(built: Any, inputs: Any) -> np.ndarray:
    if isinstance(built, Path):
        return np.asarray(onnxruntime.InferenceSession(built).run(None, inputs)[0])
    with torch.no_grad():
        outputs = built(*inputs)
    first = outputs.logits if hasattr(built, "lm_head") else outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    return first.numpy()


def as_arrays(sample: Any) -> list[np.ndarray]:
    return list(sample.values()) if isinstance(sample, dict) else [t.numpy() for t in sample]


def test_names_are_the_files() -> None:
    assert models.names() == sorted(OUTPUT_SHAPES)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'minilm'"):
        models.load("minilmm")


@every_model
def test_runs_and_gives_finite_outputs_that_depend_on_the_input(name: str, built: Any) -> None:
    samples = [models.load(name).example_inputs(), *models.load(name).calibration(2)]
    outputs = [run(built, sample) for sample in samples]
    assert all(y.shape == OUTPUT_SHAPES[name] for y in outputs)
    assert all(np.isfinite(y).all() for y in outputs)
    assert not np.allclose(outputs[1], outputs[2], rtol=1e-3)


@every_model
def test_inputs_are_the_same_every_time(name: str) -> None:
    model = models.load(name)
    for make in (lambda: [model.example_inputs(2)], lambda: list(model.calibration(3))):
        for first, second in zip(make(), make(), strict=True):
            for a, b in zip(as_arrays(first), as_arrays(second), strict=True):
                np.testing.assert_array_equal(a, b)


@every_model
def test_calibration_gives_what_was_asked_in_the_shape_of_the_examples(name: str) -> None:
    model = models.load(name)
    samples = list(model.calibration(3))
    example = model.example_inputs()
    assert len(samples) == 3
    for sample in samples:
        assert type(sample) is type(example)
        assert [a.shape for a in as_arrays(sample)] == [a.shape for a in as_arrays(example)]
        assert [a.dtype for a in as_arrays(sample)] == [a.dtype for a in as_arrays(example)]
    assert any((a != b).any() for a, b in zip(as_arrays(samples[0]), as_arrays(samples[1]), strict=True))


@every_model
def test_batch_is_the_first_dimension(name: str) -> None:
    for one, three in zip(as_arrays(models.load(name).example_inputs()), as_arrays(models.load(name).example_inputs(3)), strict=True):
        assert three.shape == (3, *one.shape[1:])


@every_model
def test_recipe_targets_name_layers(name: str, built: Any) -> None:
    """The re: targets are module paths of a torch model; each must match some Linear."""
    recipe = models.load(name).recipe()
    if name.startswith("video_dit"):  # reorders its attention
        return
    assert [next(iter(p)) for p in recipe["passes"]] == ["prune", "pack"]
    patterns = [t[3:] for t in recipe["passes"][0]["prune"].get("targets", []) if t.startswith("re:")]
    if isinstance(built, Path):
        assert not patterns  # node names of an exported file are no stable targets
        return
    linears = [path for path, module in built.named_modules() if isinstance(module, torch.nn.Linear)]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, path) for path in linears), (pattern, linears[:3])
