"""Findings of a check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from deploy.errors import StartError

# note: worth knowing, works all the same. wrong: must be seen to; any one makes the exit code 1.
Verdict = Literal["well", "note", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: how it is, in a sentence, and what to do about it where it is not well."""

    about: str
    verdict: Verdict
    said: str
    do: str | None = None


def tried(about: str, check: Callable[[], str], do: str | None = None) -> Finding:
    """Return what `check` says; where it raises `StartError`, that is what is wrong."""
    try:
        return Finding(about, "well", check())
    except StartError as error:
        return Finding(about, "wrong", str(error), do)
