from sparsecc.runtime import machine


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(machine, "_COPY_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "_MATMUL_SIZE", 64)
    assert machine.matmul_rate(repeats=1) > 1e6
    assert machine.copy_bandwidth(threads=2, repeats=1) > 1e6
