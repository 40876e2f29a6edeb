"""What code is generated for, whatever the backend: each has a table of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar


class Target(ABC):
    """A backend's target is a frozen dataclass, which is its text in the records. backend: the name of the backend's folder."""

    backend: ClassVar[str]
    threads: int

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call it."""

    @property
    @abstractmethod
    def cannot_run(self) -> str | None:
        """Why code for it must not run on this machine. None when it may."""

    @property
    @abstractmethod
    def is_here(self) -> bool:
        """Whether it is this machine, so that what is timed here holds."""


T = TypeVar("T", bound=Target)
