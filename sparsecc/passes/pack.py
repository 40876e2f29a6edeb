"""Store pruned weights in sparse formats and let sparse operators read them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparsecc import formats, registry
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import require_valid, select, untouchable
from sparsecc.graph.sites import Conv2d, WeightSite
from sparsecc.passes.base import Example, Match, Pass

if TYPE_CHECKING:
    from sparsecc.formats.base import Format
    from sparsecc.ops.base import SiteOp


@dataclass(frozen=True)
class Storing:
    """What Pack does at a site. sparsity: of the weight as it is."""

    format: Format
    sparsity: float
    bytes_dense: int
    bytes_packed: int

    def __str__(self) -> str:
        return f"{self.format.key}, {self.bytes_packed / self.bytes_dense:.2f} of the dense bytes"


@dataclass(frozen=True)
class Pack(Pass[WeightSite, Storing]):
    """Store each weight that has zeros in the format that takes the fewest bytes; refuse where none saves 5 % of the dense bytes.

    linear(x, W, b)  ->  sparse_linear(x, packed, b)
    conv2d(x, W, b)  ->  sparse_conv2d(x, packed, b)
    quantized_linear(x, W, b)  ->  quantized_linear(x, packed, b)

    The pattern is recognized from the zeros, whoever made them. A few zeros too many in a block or group do not hide it.

    formats: the formats that may be used; members of `formats`.
    """

    examples = (Example({}),)
    changes_outputs: ClassVar[bool] = False

    targets: Targets = ALL
    ignore: Targets = ()
    formats: tuple[str, ...] = formats.DEFAULT_FORMATS

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        if not self.formats:
            raise RecipeError("formats: empty, so nothing could be packed")
        for name in self.formats:
            registry.require("formats", "formats", name)

    def find(self, graph: Graph, context: Context) -> Iterator[Match[WeightSite, Storing]]:
        for site in select(graph, WeightSite, self.targets, self.ignore):
            dense = site.quantized is not None and site.quantized.scheme.format is None
            yield Match(site, (None if dense else untouchable(site)) or self._store(site))

    def rewrite(self, graph: Graph, site: WeightSite, storing: Storing) -> None:
        graph.replace(site, _operator(site, storing.format))

    def _store(self, site: WeightSite) -> Storing | Refused:
        keep = site.matrix != 0
        itemsize = site.weight.element_size() if site.quantized is None else site.quantized.scheme.precision.value_bits / 8
        found = formats.cheapest(keep, self.formats, itemsize)
        if isinstance(found, Refused):
            return found
        return Storing(
            format=found.format,
            sparsity=1 - int(keep.count_nonzero()) / keep.numel(),
            bytes_dense=math.ceil(keep.numel() * itemsize),
            bytes_packed=found.bytes_packed,
        )


def _operator(site: WeightSite, format: Format) -> SiteOp:
    """The sparse operator that computes what the site did."""
    matrix = site.matrix
    if site.quantized is not None:
        from sparsecc.ops.quantized_linear.torch import QuantizedLinear

        return QuantizedLinear(site.quantized.packed(format, matrix != 0), site.bias)
    packed = format.pack(matrix, matrix != 0)
    if not isinstance(site, Conv2d):
        from sparsecc.ops.sparse_linear.torch import SparseLinear

        return SparseLinear(stored=packed, bias=site.bias)
    from sparsecc.ops.sparse_conv2d.torch import SparseConv2d

    return SparseConv2d(
        stored=packed,
        bias=site.bias,
        kernel=site.kernel,
        stride=site.stride,
        padding=site.padding,
        dilation=site.dilation,
    )
