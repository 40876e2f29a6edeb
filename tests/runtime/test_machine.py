import dataclasses

from sparsecc.codegen import target as targets
from sparsecc.runtime import machine


def test_what_runs_here():
    here = targets.detect(1)
    assert machine.cannot_run(here) is None
    assert machine.cannot_run(dataclasses.replace(here, features=here.features[:1])) is None
    assert "lacks imaginary" in str(machine.cannot_run(dataclasses.replace(here, features=("imaginary",))))
    assert "compiled for riscv64" in str(machine.cannot_run(dataclasses.replace(here, triple="riscv64-linux-gnu")))


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(machine, "_COPY_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_MATMUL_SIZE", 64)
    assert machine.matmul_rate(repeats=1) > 1e6
    assert machine.copy_bandwidth(threads=2, repeats=1) > 1e6
