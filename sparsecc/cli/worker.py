"""sparsecc worker"""

from __future__ import annotations

from typing import Annotated

import typer

from sparsecc.cli.streams import say


def worker(
    tracker: Annotated[str, typer.Option("--tracker", metavar="HOST:PORT", help="TVM's RPC tracker.")],
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="Under which `tune` asks for machines like this one, as zen4.")],
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Threads to lend at most. Left out: one per physical core.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="HOST", help="Under which others reach this machine. Left out: as the tracker sees it."),
    ] = None,
) -> None:
    """Measure kernels here for `sparsecc tune --tracker`, until Ctrl-C. Whoever reaches the port may run any code here."""
    from sparsecc.codegen.cpu.threads import physical_cores, wanted
    from sparsecc.codegen.tuning.serving import Server
    from sparsecc.codegen.tuning.tracker import address as parsed
    from sparsecc.errors import UserError

    if not key or any(letter.isspace() or letter == ":" for letter in key):
        raise UserError(f"--key {key!r}: expected one word without colons")
    Server(parsed(tracker), key, wanted(threads, physical_cores()), address, say).run()
