import dataclasses

from sparsecc.codegen.cpu import target as targets
from sparsecc.runtime import machine


def test_what_runs_here():
    here = targets.detect(1)
    assert machine.cannot_run(here) is None
    assert machine.cannot_run(dataclasses.replace(here, features=here.features[:1])) is None
    assert "lacks imaginary" in str(machine.cannot_run(dataclasses.replace(here, features=("imaginary",))))
    assert "compiled for riscv64" in str(machine.cannot_run(dataclasses.replace(here, triple="riscv64-linux-gnu")))
