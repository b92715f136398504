"""The end of an attempt as it was observed; `verdict` judges it."""

from dataclasses import dataclass
from typing import Literal

from services.executor.sandbox import frames
from services.executor.sandbox.interface import KeptResult
from services.executor.sandbox.process import ChildExit

Stopped = Literal["timed_out", "cancelled"]


@dataclass(frozen=True)
class ChildGone:
    """The child gave no answer; `alive` if the process was still there, with its socket closed."""

    alive: bool


@dataclass(frozen=True)
class Broken:
    """The child sent something that is no frame."""

    message: str


@dataclass(frozen=True)
class Excess:
    """The child sent more than the supervisor reads."""

    message: str
    type: str = "OutputLimit"


@dataclass(frozen=True)
class Starved:
    """The child and what it started took more memory than they may."""


Last = frames.Terminal | KeptResult | ChildGone | Broken | Excess | Starved


@dataclass(frozen=True)
class AttemptEnd:
    """All that is known about an end. `stopped` is set when SIGTERM was sent before the child had answered."""

    last: Last
    stopped: Stopped | None
    exit: ChildExit
    duration: float
    is_full: bool = False
    """Whether the child ran into its limit of processes and threads."""
    importing: str | None = None
    """The file that it imported last, of those that it was to describe."""
