"""What `benchmarks.fuzz` begins with: for each kind of file some whole ones, how they are read, and what is changed in them by name."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SUFFIXES = {"onnx": ".onnx", "recipe": ".yaml", "npz": ".npz", "artifact": ".sparsecc", "records": ".db", "report": ".json"}
_SHAPE = (2, 8)
_NUMBERS = ("-1", "1e308", ".nan", "9" * 30, "2001-1-1", "!!int", "!!float")
_ODD_VALUES = (None, 0, -1, "", [], {}, 10**30, 1e308, "9" * 100, "\ud800\x1b", [[]], {"a": None}, [10**9] * 9)
_ODD_WORDS = (*_NUMBERS, "&b", "*b", "[*a]", "<<:", "~", '"\\uD800"', "[" * 100)


def _model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: tuple[int | str, ...] = _SHAPE) -> bytes:
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [value("x", shape=shape)], [value("y", shape=None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@functools.cache
def onnx_models() -> list[bytes]:
    """A perceptron, a convolution, attention's products, shapes that are computed, a branch."""
    random_, node = np.random.default_rng(0), helper.make_node
    weight = random_.standard_normal((8, 8)).astype(np.float32)
    kernel = random_.standard_normal((4, 2, 3, 3)).astype(np.float32)
    perceptron = [node("MatMul", ["x", "w"], ["m"], name="fc"), node("Relu", ["m"], ["r"]), node("Gemm", ["r", "w", "b"], ["y"], transB=1)]
    convolution = [node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), node("GlobalAveragePool", ["c"], ["y"])]
    attention = [
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "x"], ["y"]),
    ]
    shaped = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "i"], ["g"], axis=0),
        node("Concat", ["g", "minus"], ["n"], axis=0),
        node("Reshape", ["x", "n"], ["r"]),
        node("Slice", ["r", "minus", "end", "i"], ["y"]),
    ]
    inner = [helper.make_graph([node(op, ["x"], [op])], op, [], [helper.make_empty_tensor_value_info(op)]) for op in ("Relu", "Neg")]
    branch = [node("If", ["c"], ["y"], then_branch=inner[0], else_branch=inner[1])]
    integers = {"i": np.array([0]), "minus": np.array([-1]), "end": np.array([2**40])}
    return [
        _model(perceptron, {"w": weight, "b": weight[0]}),
        _model(convolution, {"k": kernel}, (1, 2, 8, 8)),
        _model(attention, {}),
        _model(shaped, integers, ("batch", 8)),
        _model(branch, {"c": np.array([True])}),
    ]


def recipes() -> list[bytes]:
    passes = [
        '{targets: ["re:.*fc"], ignore: [head], criterion: wanda, pattern: "4x1", sparsity: 0.7, allocation: erk, floor: 0.1, seed: 3}',
        "&a {pattern: 2:4, min_weights: 10}",
        "{budget: {bytes: 20MB}, criterion: wanda, variations: 2}",
    ]
    text = "".join(f"  - prune: {options}\n" for options in passes)
    others = (
        "quantize: {}",
        "permute: {}",
        "structured: {neurons: 0.5}",
        "substitute: {structure: low_rank}",
        "pack: {formats: [nm, csr]}",
    )
    return [
        f"passes:\n{text}  - prune: *a\n".encode(),
        "".join(["passes:\n", *(f"  - {line}\n" for line in others)]).encode(),
        b"passes: [pack]",
        json.dumps({"passes": [{"pack": {}}]}).encode(),
    ]


def archives() -> list[bytes]:
    found = []
    x = np.random.default_rng(0).standard_normal((3, *_SHAPE)).astype(np.float32)
    for save, arrays in ((np.savez, {"x": x}), (np.savez_compressed, {"x": x[:1]}), (np.savez, {"x": np.asfortranarray(x[0])})):
        stream = io.BytesIO()
        save(stream, **arrays)  # type: ignore[operator]
        found.append(stream.getvalue())
    return found


@functools.cache
def artifacts() -> list[bytes]:
    import sparsecc

    model = onnx.load_from_string(onnx_models()[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.sparsecc")
        sparsecc.compile(model, threads=1).save(path)
        return [path.read_bytes()]


@functools.cache
def records() -> list[bytes]:
    from sparsecc.codegen.cpu.target import detect
    from sparsecc.codegen.tuning.records import Records

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.db")
        with Records(path, detect(1), "write") as opened:
            values = ("{}", "{}", opened._target, opened._tvm, "1", 1.0, 1.0, 1.0, None, "now")
            opened._connection.execute(f"INSERT INTO measurements VALUES ({', '.join('?' * len(values))})", values)
            opened._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            opened._connection.execute("DELETE FROM measurements")
        return [path.read_bytes()]


def reports() -> list[bytes]:
    from sparsecc.report.base import Check, Measured, Report, SiteReport, totals

    row = SiteReport(name="fc", kind="Linear", shape=(8, 8), bytes_dense=256)
    packed = replace(row, name="conv", format="csr", bytes_packed=90, decision="sparse", reason="packed", refused=("prune: small",))
    timed = replace(packed, predicted_us=1.0, measured_us=2.0, dense_us=3.0, bound_us=0.5, output_error=0.1)
    rows = (row, packed, timed)
    bare = Report(sparsecc="1", model="m", target="cpu", notes=("said",))
    whole = replace(
        bare,
        sites=rows,
        totals=totals(rows),
        check=Check(max_abs=0.1, max_rel=0.2, cosine=0.9),
        measured=Measured(samples={"random": 1}, shapes={"x": (2, 8)}, threads=1, cpu="any"),
    )
    return [report.to_json().encode() for report in (whole, replace(whole, check=None), bare)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "onnx": onnx_models,
    "recipe": recipes,
    "npz": archives,
    "artifact": artifacts,
    "records": records,
    "report": reports,
}


def seed_file(kind: str) -> Path:
    """The first seed, in a file that stays for the life of the process."""
    path = Path(_folder().name, f"seed{SUFFIXES[kind]}")
    path.write_bytes(SEEDS[kind]()[0])
    return path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _convert(path: Path) -> None:
    """All that happens to a model before it is written, and its check."""
    from sparsecc.api import convert

    convert(path, {"passes": [{"prune": {"sparsity": 0.5, "min_weights": 1}}, {"pack": {}}]})


def _recipe(path: Path) -> None:
    from sparsecc.recipe import Recipe

    Recipe.load(path)


def _samples(path: Path) -> None:
    from sparsecc.api.calibration import samples_of
    from sparsecc.graph.base import TensorSpec

    samples_of(path, (TensorSpec("x", _SHAPE, "float32"),))


def _artifact(path: Path) -> None:
    from sparsecc import load
    from sparsecc.runtime.artifact import read_report

    load(path)(np.ones(_SHAPE, np.float32))
    read_report(path)


def _records(path: Path) -> None:
    from sparsecc.codegen.cpu.target import detect
    from sparsecc.codegen.tuning.records import Records

    for mode in ("read", "write"):
        with Records(path, detect(1), mode) as opened:  # type: ignore[arg-type]
            opened.best()


def _report(path: Path) -> None:
    """In every form in which it is shown."""
    from sparsecc.cli.explain import read_json
    from sparsecc.files import json_text

    report = read_json(path)
    for text in (report.explain(), str(report), report.to_html(), json_text(report.to_dict())):
        text.encode(errors="backslashreplace")


READERS: dict[str, Callable[[Path], None]] = {
    "onnx": _convert,
    "recipe": _recipe,
    "npz": _samples,
    "artifact": _artifact,
    "records": _records,
    "report": _report,
}


def _change_model(content: bytes, generator: random.Random) -> bytes:
    """One node, attribute, shape or tensor of a model that still parses."""
    model = onnx.load_from_string(content)
    graph = model.graph
    node = generator.choice(graph.node)
    number = generator.choice((0, 1, -1, 2, 7, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63)))
    match generator.randrange(9):
        case 0:
            node.op_type = generator.choice(
                ("Relu", "Conv", "Reshape", "Gather", "Pad", "Resize", "TopK", "Expand", "Tile", "Range", "Loop")
            )
        case 1 if node.attribute:
            attribute = generator.choice(node.attribute)
            attribute.i = number
            attribute.ints[:] = [number] * generator.randrange(5)
        case 2:
            del node.input[generator.randrange(len(node.input)) :]
        case 3:
            node.input.append(generator.choice([name for other in graph.node for name in (*other.input, *other.output)]))
        case 4:
            graph.node.append(node)
        case 5 if graph.initializer:
            tensor = generator.choice(graph.initializer)
            tensor.dims[:] = [number] * generator.randrange(4)
        case 6 if graph.initializer:
            generator.choice(graph.initializer).data_type = generator.randrange(25)
        case 7:
            dims = graph.input[0].type.tensor_type.shape.dim
            generator.choice(dims).dim_value = number
        case _:
            model.opset_import[0].version = generator.randrange(30)
    return model.SerializeToString()


def _change_artifact(content: bytes, generator: random.Random) -> bytes:
    """A value of the manifest or of the report. (What the manifest says of code and shapes is trusted as the code is.)"""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    if generator.random() < 0.5:
        members["report.json"] = _change_json(members["report.json"], generator)
        manifest["sha256"]["report.json"] = hashlib.sha256(members["report.json"]).hexdigest()
    else:
        keys = [key for key in manifest if key not in ("specializations", "inputs", "outputs")]
        manifest[generator.choice(keys)] = generator.choice(_ODD_VALUES)
    members["manifest.json"] = json.dumps(manifest).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _change_json(content: bytes, generator: random.Random) -> bytes:
    """One value somewhere in it, or a field more."""
    whole = {"": json.loads(content)}
    at, key = whole, ""
    while isinstance(at[key], dict | list) and at[key] and generator.random() < 0.8:
        at = at[key]
        key = generator.choice([*at] if isinstance(at, dict) else range(len(at)))  # type: ignore[arg-type]
    at[key] = generator.choice(_ODD_VALUES)
    return json.dumps(whole[""]).encode()


def _change_recipe(content: bytes, generator: random.Random) -> bytes:
    """One word for another."""
    words = content.decode().replace(",", " , ").replace("}", " }").split(" ")
    choices = [*words, *_ODD_WORDS]
    for _ in range(generator.randrange(1, 4)):
        words[generator.randrange(len(words))] = generator.choice(choices)
    return " ".join(words).encode()


MUTATORS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "onnx": _change_model,
    "artifact": _change_artifact,
    "recipe": _change_recipe,
    "report": _change_json,
}
