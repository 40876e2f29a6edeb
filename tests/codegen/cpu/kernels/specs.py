"""Matrix kernels' specs for the tests: every way in which sizes can fail to fit, and any at all from hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces.tiles import panel_of
from sparsecc.codegen.spec import Epilogue, MatmulSpec

SPECS = {
    "tiles": MatmulSpec.linear(64, 48, 3, 64),
    "one_vector": MatmulSpec.linear(24, 16, 1, 16),
    "ragged_rows": MatmulSpec.linear(37, 50, 2, 48),
    "one_row": MatmulSpec.linear(1, 40, 2, 32),
    "one_input": MatmulSpec.linear(20, 1, 1, 32),
    "overlapping_tiles": MatmulSpec(20, 30, 1, 50, 50, 50),
    "one_more_than_a_vector": MatmulSpec(13, 30, 1, 17, 17, 17),
    "odd_batch": MatmulSpec(18, 30, 3, 49, 49, 49),
    "pitch": MatmulSpec(18, 30, 2, 40, 48, 53),
    "taps": MatmulSpec(21, 6, 2, 60, 90, 70, taps=(0, 1, 2, 10, 11, 12, 20, 21, 22)),
    "taps_back_and_forth": MatmulSpec(8, 5, 1, 33, 60, 33, taps=(20, 0, 27, 3)),
    "one_far_tap": MatmulSpec(8, 5, 2, 33, 60, 33, taps=(9,)),
    "residual": MatmulSpec(19, 30, 2, 50, 50, 55, epilogue=Epilogue(residual=True)),
    "activation_then_residual": MatmulSpec.linear(19, 30, 2, 32, Epilogue("hardswish", residual=True)),
    "residual_then_activation": MatmulSpec.linear(19, 30, 2, 32, Epilogue("relu", residual=True, residual_first=True)),
}


def panels(spec: MatmulSpec) -> list[int]:
    """Panels that cut the depth in different ways."""
    return sorted({panel_of(spec, most) for most in (1, 7, spec.channels, 2 * spec.channels, spec.depth)})


@st.composite
def specs(draw: st.DrawFn, lanes: int) -> MatmulSpec:
    taps = tuple(draw(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True)))
    positions = draw(st.integers(lanes, 5 * lanes))
    epilogue = Epilogue(draw(st.sampled_from([None, "relu", "relu6"])), residual := draw(st.booleans()), residual and draw(st.booleans()))
    return MatmulSpec(
        rows=draw(st.integers(1, 40)),
        channels=draw(st.integers(1, 24)),
        batch=draw(st.integers(1, 3)),
        positions=positions,
        channel_stride=max(taps) + positions + draw(st.integers(0, 3)),
        y_pitch=positions + draw(st.integers(0, 9)),
        taps=taps,
        epilogue=epilogue,
    )
