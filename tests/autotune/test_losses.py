from __future__ import annotations

import numpy as np
import torch

from sparsecc.autotune.losses import digest


def test_samples_are_told_apart() -> None:
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    made = [
        digest(samples)
        for samples in (
            [[a, b]],
            [[a], [b]],
            [[b, a]],
            [[a.astype(np.int32), b]],
            [[a.reshape(1, 2), b]],
            [[np.concatenate([a, b])]],
            [[a, b], []],
        )
    ]
    assert len(set(made)) == len(made)
    assert digest([(a.copy(), b.copy())]) == digest([[torch.from_numpy(a), torch.from_numpy(b)]]) == made[0]


def test_references_are_told_apart_by_what_they_say() -> None:
    one, other = (digest([[np.array([word, word], object)]]) for word in ("".join("ab"), "".join("cd")))
    assert one == digest([[np.array(["a" + "b", "".join(["a", "b"])], object)]]) != other
