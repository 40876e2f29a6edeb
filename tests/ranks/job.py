"""What each process of one torchrun job does for the tests: everything in one go, since starting takes longer than the rest."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sparsecc
from sparsecc import cli
from sparsecc.calibration.context import Context
from sparsecc.calibration.statistics import second_moments
from sparsecc.criteria.base import Stats
from sparsecc.errors import InputError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune
from sparsecc.ranks.work import each, streamed
from sparsecc.ranks.world import world
from tests.ranks import small

RECIPES = {
    "sparsegpt": "prune{criterion=sparsegpt,sparsity=0.5} pack",
    "alps": "prune{criterion=alps,pattern=2:4}",
    "sensitivity": "prune{criterion=sparsegpt,sparsity=0.5,allocation=sensitivity}",
    "owl, refined": "prune{criterion=wanda,sparsity=0.5,allocation=owl,refinement=dsnot}",
    "substitute": "substitute{structure=monarch,params=0.4}",
    "quantize": "quantize{dtype=int4,group=32,method=gptq}",
    "calibrated": "quantize{dtype=int8,activations=calibrated}",
    "recover": "prune{sparsity=0.5} recover",
}
OF_TORCH: dict[str, dict[str, Any]] = {
    "fisher": {"criterion": "fisher", "sparsity": 0.5},
    "rows": {"criterion": "sparsegpt", "sparsity": 0.5, "rows": "fisher", "allocation": "sensitivity"},
}
ITEMS = (3.0, 1.0, 2.0)  # what three layers cost: one rank gets the first, the other one those that are left


def results() -> dict[str, Any]:
    """The same in any number of processes."""
    found: dict[str, Any] = {name: converted(recipe) for name, recipe in RECIPES.items()}
    options = {"calibration": small.samples(), "criterion": "sparsegpt", "levels": [0.5, 0.7]}
    graph = small.torch_graph()
    found |= {name: pruned(graph, options) for name, options in OF_TORCH.items()}
    found["experts"] = [stats["hessian"].numpy().tobytes() for stats in of_experts()]
    found["curves"] = sparsecc.sensitivity(small.onnx_model(), **options).to_dict()
    found["one sample"] = converted(RECIPES["sparsegpt"], small.samples()[:1])  # none for rank 1
    found["squares"] = list(each("squares", ITEMS, lambda item: item, lambda item: item**2))
    found["streamed"] = list(streamed("streamed", iter(ITEMS), ITEMS, [1, 1, 1], lambda item: -item))
    return found


def converted(recipe: str, samples: Any = None) -> tuple[bytes, str]:
    proto, report = sparsecc.convert(small.onnx_model(), recipe, small.samples() if samples is None else samples)
    return proto.SerializeToString(), str(report)


def of_experts() -> list[Stats]:
    graph = small.experts()
    return list(second_moments(graph, graph.sites(WeightSite), Context(calibration=small.samples())))


def pruned(graph: FxGraph, options: dict[str, Any]) -> list[bytes]:
    done = Prune(**options).apply(graph, Context(calibration=small.samples())).graph
    return [tensor.detach().numpy().tobytes() for tensor in done.tensors()]


def who() -> list[int]:
    """The rank that does each of three items."""
    return list(each("who", ITEMS, lambda item: item, lambda _: world().rank))


def one_fails() -> None:
    if world().rank == 1:
        raise InputError("sample 3: holds sand")
    converted(RECIPES["sparsegpt"])


def one_fails_at_work() -> None:
    def work(item: float) -> float:
        if item == ITEMS[1]:
            raise ValueError("no square")
        return item

    list(each("work", ITEMS, lambda item: item, work))


def one_fails_after_all() -> None:
    if world().rank == 1:
        raise InputError("too late")


def one_has_other_samples() -> None:
    width = 32 if world().leads else 31
    converted(RECIPES["sparsegpt"], [(torch.ones(4, width),)])


def one_has_another_recipe() -> None:
    converted(RECIPES["sparsegpt" if world().leads else "recover"])


def all_fail() -> None:
    sparsecc.convert(small.onnx_model(), RECIPES["sparsegpt"])


FAILURES = (one_fails, one_fails_at_work, one_fails_after_all, one_has_other_samples, one_has_another_recipe, all_fail)


def failure(of: Callable[[], None]) -> tuple[str, str]:
    try:
        with sparsecc.spread():
            of()
    except Exception as error:  # noqa: BLE001  # whatever it is, the tests look at it
        return type(error).__name__, str(error)
    return "", ""


def commands(folder: Path) -> dict[str, int]:
    """Exit codes of commands, which write into the folder."""
    model, calib = small.write(folder)
    given = [str(model), "--calib", str(calib)]
    return {
        "convert": cli.main(["convert", str(model), str(folder / "two.onnx"), "-r", RECIPES["sparsegpt"], "--calib", str(calib)]),
        "sensitivity": cli.main(["sensitivity", *given, "--level", "0.5", "--json", str(folder / "two.json")]),
        "no such recipe": cli.main(["convert", str(model), str(folder / "no.onnx"), "-r", "no.yaml"]),
        "only the first writes": cli.main(["convert", str(model), str(folder / "none" / "no.onnx"), "-r", "pack"]),
        "tune": cli.main(["tune", str(model), "--records", str(folder / "no.db")]),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    with sparsecc.spread() as now:
        known = {"world": (now.rank, now.size), "results": results(), "who": who()}
        with sparsecc.spread() as inner:
            known["nested"] = inner is now
    known["failures"] = {of.__name__: failure(of) for of in FAILURES}
    place = folder / f"rank{rank}"  # of other machines' files there is nothing to be seen
    place.mkdir()
    known["codes"] = commands(place)
    (folder / f"rank{rank}.pickle").write_bytes(pickle.dumps(known))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
