"""Other inputs are like the ones that they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.calibration.variations import Varied
from sparsecc.graph.base import TensorSpec

TABLE = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
TEXT = (TensorSpec("ids", ("batch", "tokens"), "int64"), TensorSpec("mask", ("batch", "tokens"), "int64"))


def sentences(batch: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for tokens in (12, 20, 9):
        ids = torch.randint(100, 900, (batch, tokens), generator=generator)
        ids[:, 0] = 7
        found.append((ids, torch.ones(batch, tokens, dtype=torch.int64)))
    return found


def test_tokens_are_exchanged_and_masks_stay() -> None:
    given = sentences()
    varied = Varied.of(TEXT, given, {0: TABLE})
    known = torch.cat([ids.flatten() for ids, _ in given]).unique()
    for seed in range(5):
        ids, mask = varied.make(1, seed, range(3))
        assert torch.equal(mask, given[1][1])
        assert ids.shape == given[1][0].shape
        assert (ids[:, 0] == 7).all()  # every row begins so
        assert torch.isin(ids, known).float().mean() > 0.6  # the others are near to known ones
        assert 0.15 < float((ids != given[1][0]).float().mean()) < 0.8


def test_tokens_that_calibration_lacks_are_near_to_those_that_it_has() -> None:
    given = sentences()
    known = torch.cat([ids.flatten() for ids, _ in given]).unique()
    varied = Varied.of(TEXT, given, {0: TABLE})
    made = torch.cat([varied.make(1, seed, range(3))[0].flatten() for seed in range(20)])
    new = made[~torch.isin(made, known)].unique()
    assert len(new) > 20
    alike = nn.functional.normalize(TABLE, dim=1) @ nn.functional.normalize(TABLE, dim=1).T
    rank = (alike[known] > alike[known][:, new].T[:, :, None]).sum(2)  # the token itself is nearer than any other
    assert (rank.min(1).values <= 32).all()


@pytest.mark.parametrize("table", [None, torch.zeros(50, 8)], ids=["none", "smaller"])
def test_integers_at_which_no_table_is_read_stay(table: torch.Tensor | None) -> None:
    """Boxes and lengths are no tokens."""
    given = sentences()
    varied = Varied.of(TEXT, given, None if table is None else {0: table})
    assert torch.equal(varied.make(1, 0, range(3))[0], given[1][0])
    assert not varied.varies
    assert varied.others(3, range(3), 0) == []


def test_the_seed_alone_decides() -> None:
    varied = Varied.of(TEXT, sentences(), {0: TABLE})
    assert torch.equal(varied.make(0, 3, range(3))[0], varied.make(0, 3, range(3))[0])
    assert not torch.equal(varied.make(0, 3, range(3))[0], varied.make(0, 4, range(3))[0])


def test_single_rows_take_from_other_samples() -> None:
    given = sentences(batch=1)
    ids, _ = Varied.of(TEXT, given, {0: TABLE}).make(1, 0, [0, 2])
    others = torch.cat([given[0][0].flatten(), given[2][0].flatten()])
    changed = ids != given[1][0]
    assert torch.isin(ids[changed], others).any()


def images(count: int = 2) -> list[tuple[torch.Tensor]]:
    return [(10 * n + torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(n)),) for n in range(count)]


def test_floats_of_one_shape_are_mixed() -> None:
    [made] = Varied.of((TensorSpec("x", (1, 3, 4, 4), "float32"),), images()).make(0, 1, [1])
    share = (made - images()[0][0]) / (images()[1][0] - images()[0][0])
    assert 0 < float(share.mean()) < 0.5
    torch.testing.assert_close(share, share.mean().expand_as(share))


def test_another_shape_is_left_alone() -> None:
    given = [(torch.rand(1, 80),), (torch.rand(1, 40),)]
    [made] = Varied.of((TensorSpec("x", (1, "width"), "float32"),), given).make(0, 1, [1])
    assert torch.equal(made, given[0][0])


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[0.0, 1.0] * 40, [1.0, 1.0] * 40]),
        torch.where(torch.rand(2, 80, generator=torch.Generator().manual_seed(0)) < 0.5, -torch.inf, torch.rand(2, 80)),
        torch.arange(80).repeat(2, 1),
        torch.ones(2, 80, dtype=torch.int64),
    ],
    ids=["of ones and zeros", "added", "positions", "types"],
)
def test_what_is_no_measurement_stays(mask: torch.Tensor) -> None:
    spec = TensorSpec("mask", (1, 80), str(mask.dtype).removeprefix("torch."))
    [made] = Varied.of((spec,), [(mask[:1],), (mask[1:],)]).make(0, 1, [1])
    assert torch.equal(made, mask[:1])
