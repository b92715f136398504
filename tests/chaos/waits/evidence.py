"""What the bus and the rows say about runs that wait for events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from shared.envelope import Envelope
from shared.pull import Delivered
from shared.runs import RUN_STREAMS
from tests.chaos.verdict import TERMINAL, Finding, Mark

WRONGS = ("unended", "twice", "another's", "failed", "left")


class Evidence:
    """`runs` has the invoice of each run; `found` is what is wrong."""

    def __init__(self, runs: Mapping[str, str]) -> None:
        """Know nothing yet."""
        self.runs = runs
        self.found: list[Finding] = []
        self.matched: dict[str, list[Any]] = defaultdict(list)
        self._ends: dict[str, list[tuple[str, Any]]] = defaultdict(list)

    @property
    def streams(self) -> Sequence[str]:
        """Name the streams whose messages are noted."""
        return RUN_STREAMS

    def note(self, _stream: str, envelope: Envelope, _delivered: Delivered) -> None:
        """Add what one message says."""
        _, _, verb = envelope.type.partition(".")
        if verb in TERMINAL:
            self._ends[envelope.subject].append((verb, msgspec.json.decode(envelope.data).get("result")))
        elif verb == "event_matched":
            self.matched[envelope.subject].append(msgspec.json.decode(envelope.data)["result"]["data"]["id"])

    def has_ended(self) -> bool:
        """Return whether the bus has the end of every run."""
        return self.runs.keys() <= self._ends.keys()

    async def judge(self, database: asyncpg.Connection[Any], _marks: list[Mark]) -> bool:
        """Judge; return False while a row may still go."""
        self.found = [one for run, invoice in self.runs.items() for one in self._of(run, invoice)]
        left = await database.fetch("SELECT run FROM events.event_wait")
        self.found += [Finding("waits", "left", row["run"], "its wait is still among the rows") for row in left]
        work = await database.fetchval(
            "SELECT (SELECT count(*) FROM events.awaited_event) + (SELECT count(*) FROM events.new_wait)"
        )
        if work:
            self.found.append(Finding("waits", "left", str(work), "events or waits are still to be looked at"))
        return not self.found

    def _of(self, run: str, invoice: str) -> list[Finding]:
        ends, matched = self._ends.get(run, []), self.matched.get(run, [])
        found = []
        if not ends:
            found.append(Finding("waits", "unended", run, f"{invoice} has no end, and {len(matched)} events"))
        if len(ends) > 1 or len(matched) > 1:
            found.append(Finding("waits", "twice", run, f"{invoice} has {len(ends)} ends and {len(matched)} events"))
        if any(one != invoice for one in matched):
            found.append(Finding("waits", "another's", run, f"{invoice} was given {matched}"))
        for verb, result in ends:
            if verb != "succeeded" or result["invoice"] != invoice:
                found.append(Finding("waits", "failed", run, f"{invoice} ended as {verb} with {result}"))
        return found
