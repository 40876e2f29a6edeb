from __future__ import annotations

from models import video_dit
from sparsecc.attention.base import AXIS_ORDERS, BLOCK, Asked, Grid, Sample, required
from sparsecc.attention.judge import average_mass, heaviest, lost_mass
from sparsecc.attention.paro import Paro
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention


def test_heads_are_blocky_along_their_axes_as_those_of_trained_models_are() -> None:
    inputs, grid = video_dit.example_inputs(), Grid(*video_dit.GRID, video_dit.TEXT)
    graph = FxGraph.from_module(video_dit.build(), inputs)
    [site] = graph.sites(Attention)
    assert site.name == "attn"
    sample = Sample(*graph.run(inputs, [site.name]).taps[site.name])
    two = Sample(*(x[:, [3, 5]] for x in sample))
    found = Paro().choose(Asked(grid, 2, site.scale, 0.2, samples=[two]))
    assert found.map.orders is not None and found.lost is not None
    assert [AXIS_ORDERS[order] for order in found.map.orders.tolist()] == [video_dit.order_of(3), video_dit.order_of(5)]
    for head in range(2):
        raster = average_mass([Sample(*(x[0, head] for x in two))], grid.permutation(0), site.scale, BLOCK).mass
        assert float(found.lost[head]) <= lost_mass(raster, heaviest(raster, required(grid, BLOCK), 0.2)) / 2
