from __future__ import annotations

import numpy as np
import pytest

from sparsecc.graph.onnx.contrib import take_apart
from sparsecc.graph.onnx.kept import reason
from tests.graph.onnx.contrib.apart import check, check_half, floats, single

X = floats(2, 5, 16)
PACKED = {"w": floats(16, 48, scale=0.3), "b": floats(48)}
ROWS = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], np.int32)


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("mask", [None, ROWS, np.array([3, 5], np.int32), np.tril(np.ones((2, 5, 5), np.int32))], ids=str)
def test_attention_and_its_masks(mask: np.ndarray | None, unidirectional: int) -> None:
    feeds = {"x": X} if mask is None else {"x": X, "m": mask}
    check("Attention", "x w b m" if mask is not None else "x w b", feeds, PACKED, num_heads=4, unidirectional=unidirectional)


def test_attention_with_a_bias_and_wider_values() -> None:
    weights = {"w": floats(16, 56, scale=0.3), "b": floats(56)}
    check("Attention", "x w b _ _ a", {"x": X, "a": floats(2, 4, 5, 5)}, weights, num_heads=4, qkv_hidden_sizes=[16, 16, 24], scale=0.3)


def test_attention_with_a_past() -> None:
    check("Attention", "x w b _ p", {"x": X, "p": floats(2, 2, 4, 3, 4)}, PACKED, outputs="y q", num_heads=4, unidirectional=1)


def test_multi_head_attention() -> None:
    query, short, long = X, floats(2, 7, 16), floats(2, 7, 24)
    seen = np.eye(2, 7, dtype=np.int32) | 1
    seen[:, 5:] = 0
    check("MultiHeadAttention", "q k v b", {"q": query, "k": short, "v": long}, {"b": floats(56)}, num_heads=4)
    check("MultiHeadAttention", "q k v _ m", {"q": query, "k": short, "v": short, "m": seen}, num_heads=4)
    check("MultiHeadAttention", "q k v _ _ a", {"q": query, "k": X, "v": X, "a": floats(1, 4, 5, 5)}, num_heads=4, unidirectional=1)
    check("MultiHeadAttention", "q k v", {"q": query, "k": floats(2, 4, 7, 4), "v": floats(2, 4, 7, 4)}, num_heads=4)
    past = {"pk": floats(2, 4, 3, 4), "pv": floats(2, 4, 3, 4)}
    check("MultiHeadAttention", "q k v _ _ _ pk pv", {"q": query, "k": X, "v": X, **past}, outputs="y nk nv", num_heads=4)


GROUPED = {"num_heads": 4, "kv_num_heads": 2, "outputs": "y nk nv"}
TABLES = {"c": floats(32, 8), "s": floats(32, 8)}


def prompt() -> dict[str, np.ndarray]:
    return {"q": floats(2, 5, 64), "k": floats(2, 5, 32), "v": floats(2, 5, 32), "l": np.array([4, 4], np.int32)}


def test_group_query_attention_over_a_prompt() -> None:
    total = {"t": np.array(5, np.int32)}
    check("GroupQueryAttention", "q k v _ _ l t", prompt(), total, **GROUPED)
    check("GroupQueryAttention", "q k v _ _ l t", prompt(), total, local_window_size=2, **GROUPED)
    check("GroupQueryAttention", "q k v _ _ l t c s", prompt(), total | TABLES, do_rotary=1, **GROUPED)
    together = {"q": floats(2, 5, 128), "l": np.array([4, 4], np.int32)}
    check("GroupQueryAttention", "q _ _ _ _ l t c s", together, total | TABLES, do_rotary=1, rotary_interleaved=1, **GROUPED)


@pytest.mark.parametrize("filled", [[6, 6], [6, 3]])
def test_group_query_attention_over_a_past(filled: list[int]) -> None:
    step = {"q": floats(2, 1, 64), "k": floats(2, 1, 32), "v": floats(2, 1, 32), "l": np.array(filled, np.int32)}
    past = {"pk": floats(2, 2, 6, 16), "pv": floats(2, 2, 6, 16)}
    check("GroupQueryAttention", "q k v pk pv l t c s", step | past, {"t": np.array(7, np.int32)} | TABLES, do_rotary=1, **GROUPED)


@pytest.mark.parametrize(
    ("attributes", "said"), [({"softcap": 5.0}, "it has a sink or a soft cap"), ({"smooth_softmax": 1}, "it has a sink or a soft cap")]
)
def test_what_stays_says_why(attributes: dict[str, float], said: str) -> None:
    how = {**GROUPED, **attributes}
    proto = single("GroupQueryAttention", "q k v _ _ l t", prompt(), {"t": np.array(5, np.int32)}, **how)
    assert not take_apart(proto)
    assert reason(proto.graph.node[0]) == said


def test_float16() -> None:
    for mask in (ROWS, np.array([3, 5], np.int32)):
        check_half("Attention", "x w b m", {"x": X, "m": mask}, PACKED, num_heads=4, unidirectional=1)
    check_half("GroupQueryAttention", "q k v _ _ l t c s", prompt(), {"t": np.array(5, np.int32)} | TABLES, do_rotary=1, **GROUPED)
