from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces.tiles import Tiles, groups_for, panel_of, tile_for
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from tests.codegen.cpu.kernels.specs import specs


def test_knobs_as_the_report_has_them() -> None:
    assert str(Tiles(tile=64, rows=4, panel=96, groups=2)) == "4x64 panel=96 groups=2"


@given(positions=st.integers(1, 500), vectors=st.integers(1, 6))
def test_tiles_waste_least(positions: int, vectors: int) -> None:
    tile = tile_for(positions, 16, 16 * vectors)
    assert tile % 16 == 0
    assert tile <= max(min(positions, 16 * vectors), 16)
    wasted = {t: ceil_div(positions, t) * t for t in range(16, 16 * vectors + 1, 16) if t <= max(positions, 16)}
    assert wasted[tile] == min(wasted.values())
    assert tile == max(t for t, waste in wasted.items() if waste == wasted[tile])


@given(jobs=st.integers(1, 40), threads=st.integers(1, 16), blocks=st.integers(1, 300))
def test_groups_give_every_thread_work(jobs: int, threads: int, blocks: int) -> None:
    groups = groups_for(jobs, threads, blocks)
    assert 1 <= groups <= blocks
    assert (jobs * groups) % threads == 0 or jobs * groups >= 16 * threads or groups == blocks


@given(spec=specs(16), most=st.integers(1, 200))
def test_panels_cut_the_depth_evenly(spec: MatmulSpec, most: int) -> None:
    panel = panel_of(spec, most)
    assert spec.depth % panel == 0
    assert panel % spec.channels == 0 or spec.channels % panel == 0
    assert panel <= max(most, 1) or panel == spec.channels or panel % spec.channels == 0
