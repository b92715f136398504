"""The doors: each knows its targets, and how one case goes through."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

import msgspec

from tests.fuzz.cases import Case, Target

STORED, REFUSED = "stored", "refused"
FAILED, UNANSWERED, WRONG = "failed", "unanswered", "wrong"
# By what the organization is meant.
ANOTHER = ("header:X-Millrace-Org", "query:org")
_RESOURCE = re.compile(r"(\w+)s/\{")


class Wrong(Exception):
    """What a door must not do, in one sentence; `how` says what it was: `FAILED`, `UNANSWERED`, or anything else."""

    def __init__(self, said: str, how: str = WRONG) -> None:
        super().__init__(said)
        self.how = how


class Outcome(NamedTuple):
    """What became of a case: `stored` or `refused`, and what was said to it."""

    became: str
    said: str = ""


class Door(Protocol):
    """A way in. `most` is how many cases are on their way at once."""

    name: str
    most: int

    def targets(self) -> list[Target]:
        """Return what can be aimed at."""

    async def send(self, case: Case) -> Outcome:
        """Send a case through. Raises `Wrong`."""

    async def settled(self) -> list[str]:
        """Wait for what came of the cases so far; return what is wrong with it."""


class Refusal(msgspec.Struct):
    """A problem document, so far as it is looked at."""

    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


def names(case: Case, detail: str, problems: list[str]) -> bool:
    """Return whether a refusal says which part of a case it is about: by a path to it, into it or around it, or by its name."""
    if case.text in ANOTHER or case.where == "org":
        return True  # the same thing is refused for another reason, since another organization has other things
    if "which is the most" in detail:
        return True  # of this kind the organization may have no more, whatever they are
    if case.kind.startswith("depth") and "nested" in detail:
        return True  # by then nothing is known of a document's parts
    if case.text is not None:
        wanted = [case.text.rpartition(":")[2]]
        if case.text.startswith("path:"):
            wanted += _RESOURCE.findall(case.target)  # `name` after `integrations` is an `integration` to who is asked
    elif case.spot is not None:
        wanted = [str(part) for part in case.spot.path if isinstance(part, str)]
    else:
        return bool(detail)
    said = detail.lower()
    return any(name.lower() in said or any(name.lower() in problem.lower() for problem in problems) for name in wanted)
