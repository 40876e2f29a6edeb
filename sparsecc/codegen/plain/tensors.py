"""The tensors of a model while it is emitted as Relax again, and the weights beside them."""

from __future__ import annotations

import numpy as np

from sparsecc.codegen.alignment import aligned_copy, in_place
from sparsecc.codegen.recognize.program import Expr, Program, Var
from sparsecc.codegen.tvm_api import BlockBuilder, GenericConst, relax

_WEIGHT_ELEMENTS = 64  # larger constants become parameters, stored once beside the code


class Tensors:
    """Tensors as the model has them, by the program's variables, and the Relax function that grows under them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = BlockBuilder()
        self.weights: dict[str, np.ndarray] = {}
        self.weight_vars: list[Var] = []
        self._constants: dict[Expr, Expr] = {}

    def op(self, expr: Expr) -> Var:
        return self.builder.emit(expr)

    def natural(self, expr: Expr) -> Expr:
        """The tensor in the order that the model gives it."""
        if isinstance(expr, GenericConst):
            return self._constant(expr)
        return self.made(expr) if isinstance(expr, relax.Var) else expr

    def made(self, var: Var) -> Expr:
        """What has become of a variable of the program."""
        raise NotImplementedError

    def _constant(self, const: Expr) -> Expr:
        """Small constants stay in the code, large ones become weights; both copied: the importer leaves them in the caller's model."""
        if const not in self._constants:
            array = aligned_copy(np.from_dlpack(const.value))
            self._constants[const] = relax.const(array, str(array.dtype)) if array.size <= _WEIGHT_ELEMENTS else self.weight(array)
        return self._constants[const]

    def weight(self, array: np.ndarray) -> Var:
        """A new parameter of main that holds `array`, which is handed over."""
        name = f"w{len(self.weights)}"
        var = relax.Var(name, relax.TensorType(list(array.shape), str(array.dtype)))
        self.weights[name] = in_place(array)
        self.weight_vars.append(var)
        return var
