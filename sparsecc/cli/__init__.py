"""The command line. One file per command; argv and the terminal are known here alone."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.exceptions import TyperException

import sparsecc
from sparsecc.cli import bench, compile, convert, doctor, explain, inspect, plan, ranks, records, run, sensitivity, streams, tune, worker
from sparsecc.cli.interrupts import noting_interrupts
from sparsecc.cli.streams import say
from sparsecc.codegen.chatter import no_chatter
from sparsecc.errors import RecipeWarning, SparseccError

INTERRUPTED = 130
_DEBUG = "--debug"
_LONGEST = 2000  # characters of an error, which may quote what it found

app = typer.Typer(
    name="sparsecc",
    help="Make a trained network cheaper to run, and prove that it is.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sparsecc {sparsecc.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    """Errors are one line on stderr. Exit code: 0 when what was asked holds, 2 for your mistake, 1 for ours, 130 after Ctrl-C."""


_PLAIN = (
    convert.convert,
    compile.compile,
    tune.tune,
    run.run,
    bench.bench,
    inspect.inspect,
    sensitivity.sensitivity,
    explain.explain,
    doctor.doctor,
    worker.worker,
)
for _command in _PLAIN:
    app.command()(_command)
app.add_typer(plan.app)
app.add_typer(records.app)
_COMMANDS = (*(command.__name__ for command in _PLAIN), str(plan.app.info.name), str(records.app.info.name))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    streams.prepare()
    ranks.quiet()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _DEBUG in arguments
    arguments = [argument for argument in arguments if argument != _DEBUG] or ["--help"]
    with noting_interrupts() as interrupts, _verbosity(debug):
        code = _run(arguments, debug, interrupts)
    if code == INTERRUPTED:
        with no_chatter():
            gc.collect()  # what TVM had half built complains on stderr when it goes
        ended = interrupts and interrupts[-1] != signal.SIGINT
        say(f"ended by {signal.Signals(interrupts[-1]).name}" if ended else "interrupted")
        code = 128 + interrupts[-1] if ended else INTERRUPTED
    lost = streams.flush()
    return _fail(None, lost, 2, debug) if lost and not code else code


@contextmanager
def _verbosity(debug: bool) -> Iterator[None]:
    """What libraries warn about and log is for --debug."""
    with warnings.catch_warnings():
        if debug:
            logging.basicConfig(level=logging.INFO)
        else:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=RecipeWarning)
            warnings.showwarning = _warn
            logging.basicConfig(handlers=[logging.NullHandler()])
        yield


def _warn(message: Warning | str, *_: object) -> None:
    say(f"warning: {' '.join(str(message).split())}")


def _run(arguments: list[str], debug: bool, interrupts: list[int]) -> int:
    try:
        with ranks.shared(arguments, _COMMANDS):
            return app(arguments, prog_name="sparsecc", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        streams.silence(1)  # whoever read our output has left; so nothing more is said
        return INTERRUPTED if interrupts else 1
    except Exception as error:  # noqa: BLE001  # the last place that can turn it into one line
        message, code = _words(error)
        return INTERRUPTED if interrupts else _fail(error, message, code, debug)


def _words(error: Exception) -> tuple[str, int]:
    """What is said about an error, and the exit code."""
    if isinstance(error, TyperException):
        return error.format_message(), error.exit_code
    if isinstance(error, SparseccError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"out of memory: {error}", 1
    if isinstance(error, OSError):  # as a full disk, which is no more ours where nobody foresaw it than where it is named
        return f"the system refuses: {error}", 2
    return f"internal: {type(error).__name__}: {error} (--debug shows where)", 1


def _fail(error: Exception | None, message: str, code: int, debug: bool) -> int:
    if debug and error is not None:
        import traceback

        traceback.print_exception(error)
    line = " ".join(message.split())
    say(f"error: {line if len(line) <= _LONGEST else f'{line[:_LONGEST]}...'}")
    return code
