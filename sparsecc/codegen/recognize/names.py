"""Which site of the graph each layer of a program is. A weight that is not dense comes with its site's name, a dense one as a constant."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np

from sparsecc.codegen.recognize.program import Layer, Program
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import WeightSite

_SAMPLES = 256  # weights by which two matrices are told apart


def name_layers(program: Program, graph: Graph) -> None:
    """Give each dense layer the name of the site that has its weight; of sites that share one, in the order of the model.

    What the importer has folded into a weight (a norm behind a convolution) leaves it with none of the graph's weights. Such layers are
    named in the order of the model, where as many of their size are left over in the graph.
    """
    layers = [node.what for node in program.nodes if isinstance(node.what, Layer)]
    for layer in layers:
        layer.name = layer.site
    dense = [layer for layer in layers if isinstance(layer.weight, np.ndarray) and layer.site is None]
    sites = [site for site in graph.sites(WeightSite) if site.form is None]
    by_weight: defaultdict[Any, deque[WeightSite]] = defaultdict(deque)
    for site in sites:
        by_weight[_print_of(site.matrix.detach().cpu().numpy())].append(site)
    named: set[str] = set()
    for layer in dense:
        if candidates := by_weight[_print_of(np.asarray(layer.weight))]:
            layer.name = candidates.popleft().name
            named.add(layer.name)
    left = [layer for layer in dense if layer.name is None]
    unseen = [site for site in sites if site.name not in named]
    for size in {(layer.rows, layer.depth) for layer in left}:
        some = [layer for layer in left if (layer.rows, layer.depth) == size]
        theirs = [site for site in unseen if (site.rows, site.cols) == size]
        if len(some) == len(theirs):
            for layer, site in zip(some, theirs, strict=True):
                layer.name = site.name


def _print_of(matrix: np.ndarray) -> Any:
    """Equal for equal matrices, and for hardly any others."""
    places = np.linspace(0, max(0, matrix.size - 1), min(_SAMPLES, matrix.size)).astype(np.int64)
    return matrix.shape, matrix[np.unravel_index(places, matrix.shape)].astype(np.float32).tobytes()
