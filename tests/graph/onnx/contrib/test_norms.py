from __future__ import annotations

import numpy as np

from tests.graph.onnx.contrib.apart import check, check_half, floats, integers

X, SKIP = floats(2, 5, 16), floats(2, 5, 16)
NORM = {"g": floats(16), "b": floats(16)}


def test_skip_layer_norm_gives_the_sum_too() -> None:
    check("SkipLayerNormalization", "x s g b c", {"x": X, "s": SKIP}, {**NORM, "c": floats(16)}, outputs="y _ _ t", epsilon=1e-5)


def test_rms_norms() -> None:
    check("SkipSimplifiedLayerNormalization", "x s g", {"x": X, "s": SKIP}, {"g": NORM["g"]}, outputs="y _ _ t", epsilon=1e-5)
    check("SimplifiedLayerNormalization", "x g", {"x": X}, {"g": NORM["g"]}, domain="", axis=-1, epsilon=1e-5)


def test_embeddings() -> None:
    ids, kinds = integers(2, 5, high=9, dtype=np.int32), integers(2, 5, high=2, dtype=np.int32)
    tables = {"w": floats(9, 16), "p": floats(8, 16), "t": floats(2, 16)}
    mask = integers(2, 5, high=2, dtype=np.int32)
    check("EmbedLayerNormalization", "i s w p t g b m", {"i": ids, "s": kinds, "m": mask}, tables | NORM, outputs="y k")
    check("EmbedLayerNormalization", "i _ w p _ g b", {"i": ids}, {"w": tables["w"], "p": tables["p"]} | NORM, outputs="y k e")


def test_float16_whose_squares_overflow() -> None:
    check_half("SimplifiedLayerNormalization", "x g", {"x": X * 400}, {"g": NORM["g"]}, domain="", axis=-1, epsilon=1e-5)
    check_half("SkipSimplifiedLayerNormalization", "x s g", {"x": X, "s": SKIP}, {"g": NORM["g"]}, outputs="y _ _ t", epsilon=1e-5)
    check_half("SkipLayerNormalization", "x s g b", {"x": X, "s": SKIP}, NORM, outputs="y _ _ t", epsilon=1e-5)
