"""Six models that sparsecc was not developed on, 20 minutes each: the fastest at no worse metric than OpenVINO's int8, in pairs with it.

    python -m benchmarks.ladder.strangers [--minutes 20] [--seed 0] [--threads 2] [--seconds 30] [--only NAME] [--quick]

OpenVINO's int8 is judged first, on samples held out; its metric is the goal of the search, on the same samples. The metric compares with
the model as it came: the share of equal answers for classifiers and recognizers, the cosine for others. A model that finds nothing faster
has the reason in its row. Writes benchmarks/results/ladder-strangers.json and .md after each model; exits with 1 when fewer than four are
faster.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.accuracy.pareto import layers
from benchmarks.ladder.duel import Field, why
from benchmarks.ladder.models_of_others import STRANGERS, Stranger
from benchmarks.machine import machine
from benchmarks.peers import Workload
from benchmarks.results import FOLDER, markdown_table, outcome, write
from sparsecc.errors import SparseccError

NAME = "ladder-strangers"
ENOUGH = 4  # models
_CALIBRATION, _HELD_OUT, _RANGES = 64, 128, 16  # samples; by the last OpenVINO finds its ranges
_REASONS = 2  # of layers, that are told
_SAME = 1e-5  # of a metric: the model as it came, which it compares with, rounds otherwise in another engine


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    wanted = [stranger for stranger in STRANGERS if arguments.only in (None, stranger.name)]
    rows = _earlier() if arguments.only else {}
    for stranger in wanted:
        rows[stranger.name] = measured(stranger, arguments, console)
        console.print(_told(rows[stranger.name]), markup=False, highlight=False, soft_wrap=True)
        if not arguments.quick:
            document = _document(rows, arguments)
            paths = write(NAME, document, markdown(document))
            console.print(f"wrote {', '.join(map(str, paths))}")
    return 0 if verdict(list(rows.values()))[1] else 1


def _earlier() -> dict[str, Any]:
    path = FOLDER / f"{NAME}.json"
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}


def _document(rows: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    found = [rows[stranger.name] for stranger in STRANGERS if stranger.name in rows]
    about = {"threads": arguments.threads, "minutes": arguments.minutes, "seed": arguments.seed, "held_out": _HELD_OUT}
    return {"machine": machine(), **about, "rows": found, "outcome": outcome(*verdict(found))}


def measured(stranger: Stranger, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """faster: whether it is, at no worse metric.  reason: where it is not."""
    row: dict[str, Any] = {"name": stranger.name, "kind": stranger.kind, "package": stranger.package, "metric": stranger.metric}
    row |= {"peer": None, "best": None, "faster": False, "reason": ""}
    field = _field(stranger, arguments)
    try:
        with console.status(f"{stranger.name}: OpenVINO"):
            peer, quality = field.baseline(arguments.seconds / 4)
    except RuntimeError as error:
        return row | {"reason": f"no int8 to compare with: {error}"}
    row |= {"peer": peer.name, "peer_quality": quality}
    try:
        found = field.searched(f"{stranger.metric}>={quality!r}", arguments.minutes, arguments.seed, console)
        best = None if found.best is None else field.against(found, peer, arguments.seconds)
        if best is not None and best["times"]["median"] > 1 and best["quality"] >= quality - _SAME:
            return row | {"best": best, "faster": True}
        return row | {"best": best, "reason": "; ".join([why(found), *_refusals(field)])}
    except SparseccError as error:
        return row | {"reason": f"sparsecc: {error}"}


def _field(stranger: Stranger, arguments: argparse.Namespace) -> Field:
    share = 8 if arguments.quick else 1
    calibration = list(stranger.inputs(_CALIBRATION // share, held_out=False))
    held_out = list(stranger.inputs(_HELD_OUT // share, held_out=True))
    example = {name: value.copy() for name, value in calibration[0].items()}
    work = Workload(stranger.name.replace(" ", "_"), stranger.path(), example, calibration=calibration[:_RANGES])
    return Field(work, calibration, held_out, stranger.metric, transformer=False, threads=arguments.threads)


def _refusals(field: Field) -> list[str]:
    """Why layers stay as they are where all are asked to be int8: what is said most often, with the number of layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is told here
        report = field.compiled({"passes": [{"quantize": {}}]}, field.calibration[:4]).report
    said = Counter(reason for site in report.sites for reason in site.refused)
    return [f"{reason} ({count} of {len(report.sites)} layers)" for reason, count in said.most_common(_REASONS)]


def verdict(rows: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    faster = sum(row["faster"] for row in rows)
    with_reason = sum(bool(row["reason"]) for row in rows)
    return f"{faster} of {len(rows)} faster at no worse metric, {with_reason} with the reason", faster >= ENOUGH


def markdown(document: Mapping[str, Any]) -> str:
    about = (
        f"Models from packages, {document['threads']} threads, {document['minutes']:g} minutes each (seed {document['seed']}), judged "
        f"against the model as it came by {document['held_out']} samples held out. Wanted: faster than OpenVINO's int8 at no worse metric "
        f"in at least {ENOUGH}. {document['outcome']['measured']}."
    )
    head = ["model", "what", "metric", "OpenVINO int8", "ms", "sparsecc", "ms", "times as fast", "layers, or why not"]
    return f"{about}\n\n" + markdown_table(head, [_cells(row) for row in document["rows"]])


def _cells(row: Mapping[str, Any]) -> list[str]:
    best: Mapping[str, Any] | None = row["best"]
    theirs = f"{row['peer_quality']:.4f}" if row["peer"] else ""
    mine = ["", "", "", ""]
    if best is not None:
        mine = [f"{best['peer_ms']:.2f}", f"{best['quality']:.4f}", f"{best['ms']:.2f}", f"{best['times']['median']:.2f}"]
    words = [layers(best["recipe"]) if best is not None and row["faster"] else "", row["reason"]]
    return [f"{row['package']}: {row['name']}", row["kind"], row["metric"], theirs, *mine, "; ".join(filter(None, words))]


def _told(row: Mapping[str, Any]) -> str:
    return " | ".join(_cells(row))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="for the search of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30, help="for the timing of each pair")
    parser.add_argument("--only", choices=[stranger.name for stranger in STRANGERS], help="this one; the others' rows stay")
    parser.add_argument("--quick", action="store_true", help="few inputs: whether it runs (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
