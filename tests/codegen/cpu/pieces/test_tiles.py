from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces.tiles import Tiles, groups_for, panel_of, panels_of, tile_for, x_of_panel
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from tests.codegen.cpu.kernels.specs import specs


def test_knobs_as_the_report_has_them() -> None:
    assert str(Tiles(tile=64, rows=4, panel=96, groups=2)) == "4x64 panel=96 groups=2"


@given(tokens=st.integers(1, 500), most=st.integers(1, 600))
def test_no_wider_tile_pads_as_little(tokens: int, most: int) -> None:
    padded = {tile: ceil_div(tokens, tile) * tile for tile in (16, 32, 48, 64)}
    for limit in (most, 1000):
        tile = tile_for(tokens, 16, limit)
        assert padded[tile] <= limit or tile == 16
        assert not [wider for wider in padded if wider > tile and padded[wider] <= min(padded[tile], limit)]


def test_a_wide_tile_may_pad_more() -> None:
    """Tiles of one vector take half as long again for each token."""
    assert {tokens: tile_for(tokens, 16) for tokens in (9, 16, 17, 33, 80, 112, 128, 129, 144)} == (
        {9: 16, 16: 16, 17: 32, 33: 48, 80: 48, 112: 64, 128: 64, 129: 48, 144: 48}
    )
    assert (tile_for(72, 16), tile_for(72, 16, 90), tile_for(72, 16, 10)) == (48, 16, 16)


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


@given(spec=specs(16), tile=st.integers(1, 9))
def test_what_a_panel_reads_of_x(spec: MatmulSpec, tile: int) -> None:
    """Each element once, counted one by one for the panel that reads most."""
    for panel in panels_of(spec):
        assert spec.depth % panel == 0
        taps, channels = max(panel // spec.channels, 1), min(panel, spec.channels)
        parts = [spec.taps[at : at + taps] for at in range(0, len(spec.taps), taps)]
        most = max(len({tap + position for tap in part for position in range(tile)}) for part in parts)
        assert channels * most <= x_of_panel(spec, tile, panel) <= panel * tile
