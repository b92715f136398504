"""Findings of a check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from deploy.errors import StartError

# note: worth knowing, works all the same. wrong: must be seen to; any one makes the exit code 1.
Verdict = Literal["well", "note", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One check: its finding in a sentence, and the remedy where it is not well."""

    about: str
    verdict: Verdict
    said: str
    do: str | None = None


def tried(about: str, check: Callable[[], str], do: str | None = None) -> Finding:
    """Return the findings of `check`; a `StartError` of it becomes a finding."""
    try:
        return Finding(about, "well", check())
    except StartError as error:
        return Finding(about, "wrong", str(error), do)
