"""Tasks and outcomes for the tests; nothing here is measured."""

from __future__ import annotations

from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.zeros import ZeroProfile
from sparsecc.timing import Spread
from tests.codegen.cpu.kernels.specs import specs

HERE = detect(2)
DENSE = Task("dense_matmul", MatmulSpec.linear(768, 768, 2, 64))
SPARSE = Task("row_block_spmm", MatmulSpec.linear(768, 768, 2, 64), ZeroProfile(4, 0.3, 0.25))
SMALL = Task("dense_matmul", MatmulSpec.linear(32, 16, 1, 16))


def us(median: float) -> Outcome:
    return Outcome(Spread(median, 0.9 * median, 1.1 * median))


def cost(task: Task, knobs: Knobs, target: Target = HERE) -> float:
    """A made-up time that the knobs decide, smallest at none of the first guesses."""
    assert isinstance(knobs, Tiles)
    return (2 if task.structure is None else 1) * (
        100 + abs(knobs.panel - 384) / 8 + 20 * abs(knobs.groups - 3) + 64 / knobs.rows + 320 / knobs.tile
    )


structures = st.builds(ZeroProfile, st.sampled_from([1, 2, 4]), st.floats(0, 1), st.floats(0, 9))
tasks = st.builds(Task, st.sampled_from(["dense_matmul", "row_block_spmm"]), specs(16), st.none() | structures)
knobs = st.builds(Tiles, *[st.integers(1, 1 << 16)] * 4)
positive = st.floats(1e-3, 1e9)
outcomes = st.builds(Outcome, st.builds(Spread, positive, positive, positive)) | st.text(min_size=1).map(lambda words: Outcome(None, words))
