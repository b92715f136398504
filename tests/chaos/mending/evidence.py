"""What the bus and the rows say about runs that failed and were resumed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import asyncpg
import msgspec

from shared.envelope import Envelope
from shared.pull import Delivered
from shared.runs import RUN_STREAMS
from tests.chaos.verdict import TERMINAL, Finding, Mark

WRONGS = ("unresumed", "unended", "twice", "repeated", "failed", "rows")
# Steps that were on record before anything was killed: they are done once for good.
RECORDED = ("charge", "pack")


class Evidence:
    """`failed` has the order of each run to mend, `others` went on beside; `found` is what is wrong."""

    def __init__(self, failed: Mapping[str, str], others: AbstractSet[str]) -> None:
        """Know nothing yet."""
        self.failed = failed
        self.others = others
        self.found: list[Finding] = []
        self.resumed: dict[str, list[str]] = defaultdict(list)
        self._done: Counter[tuple[str, str]] = Counter()
        self._ends: dict[str, list[str]] = defaultdict(list)

    @property
    def streams(self) -> Sequence[str]:
        """Name the streams whose messages are noted."""
        return RUN_STREAMS

    def note(self, _stream: str, envelope: Envelope, _delivered: Delivered) -> None:
        """Add what one message says."""
        run, (_, _, verb) = envelope.subject, envelope.type.partition(".")
        if verb in TERMINAL:
            self._ends[run].append(verb)
        elif verb == "requested" and (resumes := msgspec.json.decode(envelope.data).get("resumes")) is not None:
            self.resumed[resumes].append(run)

    def has_ended(self) -> bool:
        """Return whether the bus has the end of every run."""
        wanted = self.others | {run for runs in self.resumed.values() for run in runs}
        return self.failed.keys() <= self.resumed.keys() and wanted <= self._ends.keys()

    async def judge(self, database: asyncpg.Connection[Any], marks: list[Mark]) -> bool:
        """Judge; return False while a row may still go on."""
        self._done = Counter((one.token, one.name) for one in marks)
        self.found = [one for run in sorted(self.failed) for one in self._of(run)]
        self.found += [one for run in sorted(self.others) for one in self._ended(run, "other")]
        open_ = await database.fetch("SELECT id FROM executor.run WHERE finished_at IS NULL")
        self.found += [Finding("runs", "rows", row["id"], "its row has no end") for row in open_]
        return not self.found

    def _of(self, run: str) -> list[Finding]:
        resumed = self.resumed.get(run, [])
        if not resumed:
            return [Finding("mended", "unresumed", run, "no run goes on where it ended")]
        if len(resumed) > 1:
            return [Finding("mended", "twice", run, f"{resumed} go on where it ended")]
        found = self._ended(resumed[0], "mended")
        often = {name: self._done[self.failed[run], name] for name in (*RECORDED, "send")}
        if any(often[name] != 1 for name in RECORDED) or not often["send"]:
            found.append(Finding("mended", "repeated", run, f"its steps were done so often: {often}"))
        return found

    def _ended(self, run: str, subject: str) -> list[Finding]:
        ends = self._ends.get(run, [])
        if len(ends) != 1:
            return [Finding(subject, "twice" if ends else "unended", run, f"its ends: {ends}")]
        return [] if ends == ["succeeded"] else [Finding(subject, "failed", run, f"it ended as {ends[0]}")]
