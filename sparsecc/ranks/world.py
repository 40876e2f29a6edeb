"""The processes of a job that work on one model together, and what they tell each other.

All ranks run the same program on the same inputs, and meet where they give each other results. At each meeting they say first where they
are and whether anything went wrong: so an error of one is an error of all, and nobody waits for a rank that has left.
"""

# pyright: reportPrivateImportUsage=false
# torch.distributed has names in its documentation that it does not mark as exported.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from sparsecc import errors
from sparsecc.errors import SparseccError, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # for a rank that recovers or compiles alone; one that dies is noticed at once, by its connections
_END = "the end"
_numbers = count()  # of the groups that were made, the same on all ranks


class Told(BaseException):
    """An error that every rank knows of by now. No handler on its way may take it for one of its own: `spread` raises what is in it."""

    def __init__(self, error: Exception, packed: tuple[str, str] | None = None) -> None:
        """packed: as it came from the rank that failed; None where all ranks found it at once."""
        super().__init__(str(error))
        self.error, self.packed = error, packed


@dataclass
class World:
    """rank: of this process, from 0.  size: how many there are.  group: torch's process group of all of them; None outside of a job."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process does what only one may do: print, write, measure times."""
        return self.rank == 0

    def exchange(self, where: str, mine: T) -> list[T]:
        """What each rank has, in their order. For small things: every rank gets all of them at once.

        where: the same on all ranks that have done the same so far.  Raises Told where one has failed or is somewhere else.
        """
        return [mine] if self.size == 1 else [found for _, _, found in self._met(where, None, mine)]

    def fail(self, error: Exception) -> Exception:
        """Tell all others of an error, who learn of it at their next meeting. What to raise: the error of the lowest rank that has one."""
        try:
            self._met(_END, _packed(error), None)
        except Told as told:
            return error if told.packed == _packed(error) else told.error
        except Lost:
            pass  # nobody is left to be told
        return error

    def leave(self) -> None:
        """End the group. Nobody may hold it any longer, not even a caller who keeps the world: a group that is there when Python ends
        aborts the process."""
        import torch.distributed as dist

        dist.destroy_process_group(self.group)
        self.group = None

    def in_turn(self, where: str, mine: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """The tensors of each rank in their order, those of one rank in memory at a time besides one's own."""
        if self.size == 1:
            yield mine
            return
        import torch

        for rank, layout in enumerate(self.exchange(where, {name: (x.shape, x.dtype, x.device) for name, x in mine.items()})):
            found: dict[str, Tensor] = {}
            for name, (shape, dtype, device) in layout.items():
                sent = mine[name].detach().cpu().contiguous() if rank == self.rank else torch.empty(shape, dtype=dtype)
                self._broadcast(sent, rank)
                found[name] = mine[name] if rank == self.rank else sent.to(device)
            yield found

    def given(self, mine: T | None, owner: int) -> T:
        """What the owner has, of any size. Only behind an `exchange`, which all ranks have left without an error."""
        import torch.distributed as dist

        held = [mine]
        with _all_there():
            dist.broadcast_object_list(held, src=dist.get_global_rank(self.group, owner), group=self.group)
        found: Any = held[0]
        return found

    def _broadcast(self, tensor: Tensor, owner: int) -> None:
        import torch.distributed as dist

        with _all_there():
            dist.broadcast(tensor, src=dist.get_global_rank(self.group, owner), group=self.group)

    def _met(self, where: str, failed: tuple[str, str] | None, mine: Any) -> list[tuple[str, tuple[str, str] | None, Any]]:
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _all_there():
            dist.all_gather_object(found, (where, failed, mine), group=self.group)
        for rank, (_, error, _) in enumerate(found):
            if error is not None:
                raise Told(_unpacked(error, rank), error)
        places = [place for place, _, _ in found]
        if len({*places}) > 1:
            other = next(rank for rank, place in enumerate(places) if place != places[0])
            raise Told(
                UserError(
                    f"spread: rank 0 is at {places[0]!r} and rank {other} at {places[other]!r}; "
                    "all ranks have to run the same program on the same model, recipe and calibration"
                )
            )
        return found


_ALONE = World()
_now = _ALONE


def world() -> World:
    """The ranks that share work now; a world of one outside `spread`."""
    return _now


@contextmanager
def spread() -> Iterator[World]:
    """In here, what calibrates divides its work among the processes of a `torchrun` job, and gives each of them the same result, bit for
    bit, as one process with as many threads has.

    Every process enters it, and does the same with the same model, recipe and calibration. An error in one of them is raised in all.
    The group is made with gloo, of all processes, beside one that is there already; inside another `spread` nothing changes.

    Raises UserError where the process is in no such job.
    """
    global _now
    if _now is not _ALONE:
        yield _now
        return
    with _group() as group:
        _now = group
        try:
            yield group
            if group.size > 1:
                group.exchange(_END, None)
        except Told as told:
            raise told.error from None
        except Exception as error:
            raised = error if group.size == 1 or isinstance(error, Lost) else group.fail(error)
            if raised is error:
                raise
            raise raised from None
        finally:
            _now = _ALONE


@contextmanager
def _group() -> Iterator[World]:
    import torch.distributed as dist

    if not dist.is_available():
        raise UserError("spread: this torch is built without torch.distributed")
    if dist.is_initialized():
        made = World(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_PATIENCE))
        try:
            yield made
        finally:
            made.leave()
        return
    try:
        store, rank, size = _store()
        own = dist.PrefixStore(f"sparsecc/{next(_numbers)}", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:  # no environment; nobody at the address
        raise UserError(f"spread: this process is in no job of torchrun that works: {str(error).splitlines()[0]}") from None
    made = World(rank, size, dist.group.WORLD)
    try:
        yield made
    finally:
        made.leave()


@cache
def _store() -> tuple[Store, int, int]:
    """Where the processes of the job find each other; rank and size. One for all groups that follow each other, under names of their own:
    what a group leaves there would lead the next one astray."""
    import torch.distributed as dist

    return next(dist.rendezvous("env://"))


class Lost(SparseccError):
    """A rank has ended without a word, as one that was killed."""


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cause = str(error).splitlines()[0].rpartition(".cc:")[2].partition("] ")[2] or str(error)  # behind its place in gloo
        raise Lost(f"spread: a process of the job has ended or cannot be reached: {cause.partition('. ')[0]}") from None


def _packed(error: Exception) -> tuple[str, str]:
    """An error as it travels: those of other libraries might not survive it."""
    if isinstance(error, SparseccError):
        return type(error).__name__, str(error)
    return "", f"{type(error).__name__}: {error}"


def _unpacked(packed: tuple[str, str], rank: int) -> Exception:
    name, message = packed
    kind: Callable[[str], Exception] | None = getattr(errors, name, None) if name else None
    return SparseccError(f"rank {rank}: {message}") if kind is None else kind(message)
