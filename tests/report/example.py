"""A report with one site of each decision."""

from sparsecc.report.base import Check, Measured, Report, SiteReport, totals

SITES = (
    SiteReport(
        name="encoder.<fc1>",
        kind="Linear",
        shape=(10, 25),
        pattern="4x1",
        sparsity=0.7,
        format="block:4x1",
        bytes_dense=1000,
        bytes_packed=400,
        kernel="row_block_spmm",
        measured_us=40.0,
        dense_us=100.0,
        bound_us=30.0,
        output_error=0.25,
        decision="sparse",
        reason="2.50x faster than dense",
    ),
    SiteReport(
        name="encoder.fc2",
        kind="Linear",
        shape=(25, 10),
        pattern="unstructured",
        sparsity=0.5,
        format="csr",
        bytes_dense=1000,
        bytes_packed=900,
        measured_us=120.0,
        dense_us=100.0,
        decision="dense",
        reason="csr takes 1.20x the dense time",
    ),
    SiteReport(name="pool", kind="Conv2d", shape=(25, 10, 1, 1), bytes_dense=1000, decision="skipped", reason="grouped"),
)
REPORT = Report(
    sparsecc="0.1.0",
    model="tiny.onnx",
    target="cpu",
    sites=SITES,
    totals=totals(SITES),
    check=Check(max_abs=1e-6, max_rel=2e-6, cosine=0.999999),
    measured=Measured(samples={"calibration": 2, "random": 1}, shapes={"x": (3, 24)}, threads=2, cpu="some CPU"),
)
