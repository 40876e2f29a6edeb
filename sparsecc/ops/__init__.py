"""The vocabulary: a folder for each operator, which says in `torch.py` what it computes and in `onnx.py` what a file carries for it.
Members: block_attention, dynamic_block_attention, quantized_linear, sparse_conv2d, sparse_linear, structured_linear.

A folder's name is that of its torch operator, and in CamelCase that of its class and of its nodes: `sparse_linear` is
`sparsecc::sparse_linear`, `SparseLinear` and the ONNX function `SparseLinear_nm_2_4`. Hosts and importers know an operator by the kind of
site whose place it takes, so that one more is one more folder.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sparsecc import registry
from sparsecc.errors import RecipeError, RecipeWarning
from sparsecc.ops.base import Operator, SiteOp

if TYPE_CHECKING:
    from sparsecc.ops.onnx_layer import LayerFunctions

HELPERS = ("onnx_body", "onnx_decoding", "onnx_layer", "packed")  # modules here that are no operators


def operator(name: str) -> type[Operator]:
    """The class of an operator; torch knows the operator from then on."""
    return registry.load_part("ops", name, "torch", Operator)


def register() -> None:
    """Torch knows all of them from then on, for files that may call any. A package's that cannot be imported is warned of and left out."""
    for name in registry.members("ops"):
        try:
            operator(name)
        except RecipeError as error:
            warnings.warn(str(error), RecipeWarning, stacklevel=3)


def layer(name: str) -> type[SiteOp]:
    """The same, of an operator with a weight."""
    return registry.load_part("ops", name, "torch", SiteOp)


def layer_functions(op_type: str) -> LayerFunctions[Any]:
    """The ONNX meaning of the layers whose nodes have this type, or one that begins so. Raises RecipeError where there are none."""
    from sparsecc.ops.onnx_layer import LayerFunctions

    name = name_of(op_type)
    functions: Any = registry.load_part("ops", name, "onnx", LayerFunctions)  # it is concrete where its base is abstract
    return functions(layer(name))


def kind_of(name: str) -> str:
    """What the types of an operator's nodes begin with: sparse_conv2d → SparseConv2d."""
    return "".join(word.capitalize() for word in name.split("_"))


def name_of(op_type: str) -> str:
    """The operator of a node: SparseConv2d_nm_2_4 → sparse_conv2d. Raises RecipeError for the type of no operator."""
    kind = op_type.partition("_")[0]
    for name in registry.members("ops"):
        if kind_of(name) == kind:
            return name
    raise RecipeError(f"ops: no {kind}")
