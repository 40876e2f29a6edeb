from __future__ import annotations

from math import isfinite

from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.features import features
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.codegen.zeros import ZeroProfile
from tests.codegen.cpu.kernels.specs import specs
from tests.codegen.tuning.tasks import DENSE, HERE, SPARSE


@given(spec=specs(HERE.lanes), data=st.data())
def test_numbers_for_every_candidate(spec: MatmulSpec, data: st.DataObject) -> None:
    for task, other in ((Task("dense_matmul", spec), DENSE), (Task("row_block_spmm", spec, ZeroProfile(2, 0.0, 0.0)), SPARSE)):
        row = features(task, data.draw(st.sampled_from(task.space(HERE))), HERE)
        assert len(row) == len(features(other, other.space(HERE)[0], HERE))
        assert all(isfinite(value) for value in row)


def test_all_knobs_matter() -> None:
    space = SPARSE.space(HERE)
    assert len({tuple(features(SPARSE, knobs, HERE)) for knobs in space}) == len(space)


def test_few_tokens_have_knobs_of_their_own() -> None:
    tasks = [Task("dense_matvec", MatmulSpec.linear(rows, 64, tokens, 1)) for rows, tokens in ((48, 1), (4096, 7))]
    rows = [features(task, knobs, HERE) for task in tasks for knobs in task.space(HERE)]
    assert len({len(row) for row in rows}) == 1
    assert all(isfinite(value) for row in rows for value in row)
